"""Documents that begin alike: few-shot examples, a source's preamble, a form's head. What they share is computed once.

The KV cache still has it when they are asked about one after another, and on the worker that had it before. So rows
that were read together are asked in the order of their openings (`order_by_opening`), and units whose rows mostly
begin alike are worked on one after another and by one worker (`common_opening`). Rows are written in input order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from docmill.data.utf8 import OPENING_BYTES

LOOKED_AT = 4096  # characters that the order goes by: what begins alike for longer has the same opening
# Below this share of rows that would gain, input order is worth more: rows behind one another end together.
SMALLEST_GAIN = 0.1


def common_opening(openings: Sequence[int]) -> int:
    """The opening (see `utf8.opening_keys`) that at least half of the rows have; 0 where there is none."""
    if not openings:
        return 0
    ((opening, number),) = Counter(openings).most_common(1)
    return opening if 2 * number >= len(openings) else 0


def order_by_opening(texts: Sequence[str | None]) -> list[int] | None:
    """Positions of the texts in an order in which those that begin alike are neighbours.

    None where that brings too little together that is not together already.
    """
    heads = [(text or "")[:LOOKED_AT] for text in texts]
    order = sorted(range(len(heads)), key=heads.__getitem__)
    gain = _num_shared(heads[position] for position in order) - _num_shared(heads)
    return order if gain > SMALLEST_GAIN * len(heads) else None


def _num_shared(heads: Iterable[str]) -> int:
    """Texts that begin as the one before them does. In characters, which are bytes at the least."""
    return sum(
        len(one) >= OPENING_BYTES and one[:OPENING_BYTES] == other[:OPENING_BYTES]
        for one, other in pairwise(heads)
    )
