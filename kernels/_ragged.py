"""Sequences of different lengths in one tensor, one after the other, with offsets that say where each begins."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(op: str, name: str, offsets: Tensor, num_elements: int) -> Tensor:
    """The row of each element, [num_elements], int64, from `offsets`, [num_rows + 1].

    Raises RuntimeError unless the offsets rise from 0 to num_elements. It looks at them, so a GPU is waited for.
    """
    lengths = offsets.diff()
    torch._check(
        int(offsets[0]) == 0 and int(offsets[-1]) == num_elements and bool((lengths >= 0).all()),
        lambda: f"{op}: {name} must rise from 0 to {num_elements}",
    )
    rows = torch.arange(lengths.size(0), device=offsets.device)
    return rows.repeat_interleave(lengths, output_size=num_elements)
