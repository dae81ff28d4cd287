"""Dynamic symmetric quantisation of rows in PyTorch, as both quantising kernels do it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The largest magnitude that is used of each type. int8 has -128 too: left out, so that the range is symmetric.
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
# The smallest normal float32: a scale's reciprocal is always finite. Rows of zeros get it.
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def check_quant_dtype(op: str, quant_dtype: torch.dtype) -> None:
    """Raises RuntimeError for a type that the kernels do not quantise to."""
    torch._check(
        quant_dtype in LARGEST,
        lambda: f"{op}: quant_dtype must be float8_e4m3fn or int8, it is {quant_dtype}",
    )


def quantize_rows(values: Tensor, quant_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Each row by a scale of its own.

    `values`: [..., size], float32. Returns the quantised values, [..., size], and the scales, [..., 1], float32:
    `scale = max |value| / largest`, `quantised = value / scale` to the nearest, half to even. A row with an infinity or
    NaN has NaN for its scale, and NaN (float8) or 0 (int8) for its values: whatever is made of it is NaN too.
    """
    scales = values.abs().amax(-1, keepdim=True) / LARGEST[quant_dtype]
    scales = scales.clamp_min(SMALLEST_SCALE).masked_fill(~scales.isfinite(), math.nan)
    quantized = values * scales.reciprocal()  # at most a rounding error above the largest, which rounds to it
    if quant_dtype == torch.int8:
        quantized = quantized.round().nan_to_num(nan=0.0)
    return quantized.to(quant_dtype), scales
