"""SiLU(gate) * up and quantisation in one pass over memory: what stands before an MLP's quantised down-projection."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from docmill.kernels._checks import FLOATS, check_dtype, check_rows
from docmill.kernels._load import declare
from docmill.kernels._quantization import check_quant_dtype, quantize_rows


def silu_mul_quant(
    gate_up: Tensor,  # [num_tokens, 2 * width], bf16, fp16 or fp32: a token's gates, then its ups; rows may be strided
    *,
    quant_dtype: torch.dtype = torch.float8_e4m3fn,  # or torch.int8
    group_size: int = 0,  # elements that share a scale; 0: all of a token
) -> tuple[Tensor, Tensor]:
    """Activate each token and quantise it by scales of its own, one a token or one for each `group_size` elements.

    A scale a token is what per-channel quantised weights want, groups of 128 what block-quantised ones do (DeepSeek,
    Qwen3 FP8). The kernel is fastest with groups of 16 to 256 (a power of two) and rows of a multiple of 16 bytes; any
    other sizes are right too. Computed in float32 and rounded once, by the quantisation.

    Returns the quantised products, [num_tokens, width], and their scales, [num_tokens, ceil(width / group_size)],
    float32 (one column if `group_size` is 0): a product is about `quantised * scale`. A token or group in which an
    infinity or NaN comes up gets the scale NaN.
    Raises RuntimeError for other dtypes, layouts and shapes than those above, and a negative group size.
    """
    quantized, scales = torch.ops.docmill.silu_mul_quant(gate_up, group_size, quant_dtype)
    return quantized, scales


def _check(gate_up: Tensor, group_size: int, quant_dtype: torch.dtype) -> None:
    op = "silu_mul_quant"
    check_dtype(op, "gate_up", gate_up, FLOATS)
    check_quant_dtype(op, quant_dtype)
    check_rows(op, "gate_up", gate_up)
    torch._check(
        gate_up.size(1) > 0 and gate_up.size(1) % 2 == 0,
        lambda: f"{op}: a row of gate_up must be as many gates as ups, its size is {gate_up.size(1)}",
    )
    torch._check(
        group_size >= 0,
        lambda: f"{op}: group_size must be 0 (a scale a token) or more, it is {group_size}",
    )


def _native(gate_up: Tensor, group_size: int, quant_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    _check(gate_up, group_size, quant_dtype)
    return compute(gate_up, group_size, quant_dtype)


def compute(gate_up: Tensor, group_size: int, quant_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The twin without its checks, which torch.compile cannot look through: what the kernel is measured against."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    products = F.silu(gate) * up
    num_tokens, width = products.shape
    if group_size == 0:
        return quantize_rows(products, quant_dtype)
    num_groups = -(-width // group_size)
    groups = F.pad(products, (0, num_groups * group_size - width)).view(num_tokens, num_groups, group_size)
    quantized, scales = quantize_rows(groups, quant_dtype)
    return quantized.flatten(1)[:, :width].contiguous(), scales.squeeze(-1)


def _fake(gate_up: Tensor, group_size: int, quant_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    _check(gate_up, group_size, quant_dtype)
    num_tokens, width = gate_up.size(0), gate_up.size(1) // 2
    num_groups = 1 if group_size == 0 else (width - 1) // group_size + 1
    quantized = gate_up.new_empty((num_tokens, width), dtype=quant_dtype)
    return quantized, gate_up.new_empty((num_tokens, num_groups), dtype=torch.float32)


declare(
    "silu_mul_quant(Tensor gate_up, int group_size, ScalarType quant_dtype) -> (Tensor, Tensor)",
    native=_native,
    fake=_fake,
)
