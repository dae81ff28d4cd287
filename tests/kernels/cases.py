"""What the kernels are tried on: sizes, types, layouts and values that have gone wrong somewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ODD_SIZES = (1, 7, 83, 769, 5125)  # no multiple of a vector, a warp or a block
# Of vectors: a piece alone; one, two and four pieces a thread; a row too long for registers.
EVEN_SIZES = (8, 1024, 5120, 12288, 40960)
LAYOUTS = ("contiguous", "gaps", "aligned gaps")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
QUANT_DTYPES = (torch.float8_e4m3fn, torch.int8)


def normal(*shape: int, dtype: torch.dtype, device: str, seed: int = 1) -> Tensor:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(device)


def laid_out(rows: Tensor, layout: str, *, gaps: int = 1) -> Tensor:
    """A copy of the rows; if not contiguous, with NaN before, between and behind them. More `gaps`, larger strides.

    Aligned rows begin at multiples of 16 elements, whatever their size.
    """
    if layout == "contiguous":
        return rows.clone()
    num_rows, size = rows.shape
    before, gap = (16, 16 * gaps + -size % 16) if layout == "aligned gaps" else (3, 5 * gaps)
    memory = rows.new_full((before + num_rows * (size + gap),), math.nan)
    view = memory[before:].view(num_rows, size + gap)[:, :size]
    return view.copy_(rows)


def unused_memory(view: Tensor) -> Tensor:
    """What lies around a strided view's rows."""
    memory = view if view._base is None else view._base
    is_used = torch.zeros_like(memory, dtype=torch.bool)
    is_used.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(True)
    return memory[~is_used]


def extreme_rows(size: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Rows by the name of what is in them."""
    info = torch.finfo(dtype)
    ordinary = normal(size, dtype=torch.float32, device="cpu", seed=2)
    one_in = {"infinity": math.inf, "minus infinity": -math.inf, "NaN": math.nan}
    rows = {
        "zeros": torch.zeros(size),
        "minus zeros": torch.full((size,), -0.0),
        "smallest denormal numbers": torch.full((size,), info.smallest_normal * info.eps),
        "denormal numbers": ordinary * info.smallest_normal / 8,
        "smallest normal numbers": torch.full((size,), info.tiny),
        "largest numbers": torch.full((size,), info.max),
        "numbers of which float32 cannot hold the squares": torch.full((size,), 1e20),  # infinities as fp16
        "ordinary numbers": ordinary,
        "one large among ordinary": torch.cat([ordinary[1:], torch.tensor([3e4])]),
        **{f"one {name}": torch.cat([torch.tensor([value]), ordinary[1:]]) for name, value in one_in.items()},
    }
    return {name: row.to(dtype).to(device) for name, row in rows.items()}
