"""Bins of token counts: every number has one, and they add up."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.ops.token_bins import BOUNDS, TokenBins, add_bins, add_to_bins, all_bins


@given(st.lists(st.integers(0, 1 << 26)))
def test_every_number_is_counted_in_the_bin_that_holds_it(numbers: list[int]) -> None:
    bins: TokenBins = {}
    add_to_bins(bins, numbers)
    assert sum(bins.values()) == len(numbers)
    for number in numbers:
        (bound,) = [
            low for low, high in zip(BOUNDS, [*BOUNDS[1:], 1 << 62], strict=True) if low <= number < high
        ]
        assert bins[bound] > 0


@given(st.lists(st.lists(st.integers(0, 5000)), min_size=1))
def test_bins_of_parts_add_up_to_those_of_the_whole(parts: list[list[int]]) -> None:
    whole: TokenBins = {}
    add_to_bins(whole, [number for part in parts for number in part])
    total: TokenBins = {}
    for part in parts:
        bins: TokenBins = {}
        add_to_bins(bins, part)
        add_bins(total, bins)
    assert total == whole


def test_a_bin_is_a_fifth_wider_than_the_one_before() -> None:
    large = [bound for bound in BOUNDS if bound >= 64]
    ratios = [high / low for low, high in pairwise(large)]
    assert min(ratios) == pytest.approx(2 ** (1 / 4), rel=0.02)
    assert max(ratios) == pytest.approx(2 ** (1 / 4), rel=0.02)
    assert len(BOUNDS) < 100


def test_empty_bins_between_others_are_shown() -> None:
    assert all_bins([{1: 5}, {4: 1}]) == [1, 2, 3, 4]
    assert all_bins([{}, {}]) == []
