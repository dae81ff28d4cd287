"""How many answers had how many tokens, counted as they come: a fixed number of bins, whatever the size of the corpus.

Each bin is a fifth wider than the one before it (a quarter of a doubling), so that ten tokens and a hundred thousand
are told apart equally well. Bins add up over units, runs and days.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

BINS_PER_DOUBLING = 4
DOUBLINGS = 24  # the last bin has everything from 16 million tokens on

# The least number of tokens in each bin. Below 8 tokens there are fewer whole numbers than quarters of doublings.
BOUNDS = tuple(
    sorted(
        {0, *(round(2 ** (step / BINS_PER_DOUBLING)) for step in range(BINS_PER_DOUBLING * DOUBLINGS + 1))}
    )
)

TokenBins = dict[int, int]  # least number of tokens of a bin -> how many answers; empty bins are left out


def add_to_bins(bins: TokenBins, numbers: Iterable[int]) -> None:
    """Count numbers of tokens."""
    for number in numbers:
        bound = BOUNDS[bisect_right(BOUNDS, number) - 1]
        bins[bound] = bins.get(bound, 0) + 1


def add_bins(total: TokenBins, part: TokenBins) -> None:
    """Add what another one counted."""
    for bound, number in part.items():
        total[bound] = total.get(bound, 0) + number


def all_bins(bins: Iterable[TokenBins]) -> list[int]:
    """The bounds from the smallest to the largest of several counts, those of empty bins between them included."""
    used = [bound for each in bins for bound in each]
    return [bound for bound in BOUNDS if min(used) <= bound <= max(used)] if used else []
