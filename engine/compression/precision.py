"""Which precision each group of layers gets: the smallest model whose divergence stays under a budget.

Divergences of single groups are added up, as if errors did not meet; the sum is what is minimised, and the whole
model is measured afterwards (`quantise` says so). A choice of one format for each group under one budget is the
multiple-choice knapsack. It is solved by dynamic programming over the choices that no other is both smaller and nearer
than (Nemhauser and Ullmann 1969); these choices are also the curve of size against divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.formats import UNQUANTISED_BITS, Format
from docmill.engine.compression.sensitivity import Sensitivity

Precisions = dict[str, Format | None]  # by group; None: as it is, in 16 bits
# Above so many choices in the front, of those with nearly the same size only the nearest is kept: the result may
# then be larger than the smallest by (groups / MAX_FRONT) of the model.
MAX_FRONT = 20_000


@dataclass(frozen=True, slots=True)
class Point:
    """One choice: mean bits of a weight (scales included), divergence foretold, and the precisions."""

    bits: float
    divergence: float
    precisions: Precisions


def choose(
    sensitivity: Sensitivity,
    formats: Sequence[Format],
    *,
    max_divergence: float | None = None,
    max_bits: float | None = None,
) -> Precisions:
    """The smallest with the summed divergence within `max_divergence`, or the nearest within `max_bits` a weight.

    Raises `UnfitError` where no choice is small enough.
    """
    front = _Front(sensitivity, formats)
    if max_divergence is not None and max_bits is None:
        if max_divergence < 0:
            raise ValueError(f"`max_divergence` is {max_divergence}; expected 0 or more, in nats a token")
        return front.precisions(int(np.argmax(front.divergences <= max_divergence)))
    if max_bits is None or max_divergence is not None:
        raise ValueError("expected one of `max_divergence` and `max_bits`, not both and not none")
    fitting = np.flatnonzero(front.bits <= max_bits)
    if not len(fitting):
        raise UnfitError(
            f"no choice among {', '.join(formats)} takes {max_bits} bits a weight or less; "
            f"the smallest takes {front.bits[0]:.2f}"
        )
    return front.precisions(int(fitting[-1]))


def curve(sensitivity: Sensitivity, formats: Sequence[Format], *, max_points: int = 200) -> list[Point]:
    """The best divergence at each size, smallest first; the last is the unquantised model or one as near."""
    front = _Front(sensitivity, formats)
    chosen = np.unique(np.linspace(0, len(front.bits) - 1, max_points).round().astype(int))
    return [
        Point(float(front.bits[row]), float(front.divergences[row]), front.precisions(int(row)))
        for row in chosen
    ]


def foretell(sensitivity: Sensitivity, precisions: Precisions) -> Point:
    """Bits and summed divergence of any choice."""
    size = sum(
        group.num_weights * (group.bits[form] if (form := precisions.get(name)) else UNQUANTISED_BITS)
        for name, group in sensitivity.groups.items()
    )
    divergence = sum(
        group.divergence[form]
        for name, group in sensitivity.groups.items()
        if (form := precisions.get(name)) is not None
    )
    num_weights = sum(group.num_weights for group in sensitivity.groups.values())
    return Point(size / num_weights, divergence, dict(precisions))


class _Front:
    """All choices that no other beats in both: `bits` rises, `divergences` falls."""

    def __init__(self, sensitivity: Sensitivity, formats: Sequence[Format]):
        groups = sensitivity.groups
        num_weights = sum(group.num_weights for group in groups.values())
        self._names = list(groups)
        self._options: list[list[Format | None]] = []
        self._steps: list[
            tuple[NDArray[np.int64], NDArray[np.int64]]
        ] = []  # of each choice: its parent, its option
        sizes, divergences = np.zeros(1), np.zeros(1)
        for group in groups.values():
            options: list[Format | None] = [None, *(form for form in formats if form in group.divergence)]
            added = np.array(
                [
                    (group.num_weights * group.bits[form], group.divergence[form])
                    if form
                    else (group.num_weights * UNQUANTISED_BITS, 0.0)
                    for form in options
                ]
            )
            all_sizes = (sizes[:, None] + added[:, 0]).ravel()
            all_divergences = (divergences[:, None] + added[:, 1]).ravel()
            kept = _undominated(
                all_sizes, all_divergences, resolution=num_weights * UNQUANTISED_BITS / MAX_FRONT
            )
            sizes, divergences = all_sizes[kept], all_divergences[kept]
            self._options.append(options)
            self._steps.append((kept // len(options), kept % len(options)))
        self.bits, self.divergences = sizes / num_weights, divergences

    def precisions(self, row: int) -> Precisions:
        """Of one choice of the front."""
        found: Precisions = {}
        for name, options, (parents, chosen) in zip(
            reversed(self._names), reversed(self._options), reversed(self._steps), strict=True
        ):
            found[name] = options[chosen[row]]
            row = int(parents[row])
        return {name: found[name] for name in self._names}


def _undominated(
    sizes: NDArray[np.float64], divergences: NDArray[np.float64], *, resolution: float
) -> NDArray[np.int64]:
    """Their positions, by rising size."""
    order = np.lexsort((divergences, sizes))
    best_before = np.concatenate(([np.inf], np.minimum.accumulate(divergences[order])[:-1]))
    kept = order[divergences[order] < best_before]
    if len(kept) > MAX_FRONT:  # divergence falls along `kept`, so the last of a bucket is its nearest
        bucket = (sizes[kept] // resolution).astype(np.int64)
        kept = kept[np.append(bucket[1:] != bucket[:-1], True)]
    return kept
