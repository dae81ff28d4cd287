"""Residual add, RMSNorm and per-token quantisation in one pass over memory: what stands before a quantised GEMM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from docmill.kernels._checks import FLOATS, check_dtype, check_rows, check_size, check_vector
from docmill.kernels._load import declare
from docmill.kernels._quantization import check_quant_dtype, quantize_rows


def rms_norm_quant(
    x: Tensor,  # [num_tokens, hidden], bf16, fp16 or fp32; rows may be strided
    weight: Tensor,  # [hidden], dtype of x, contiguous
    epsilon: float,
    *,
    residual: Tensor | None = None,  # [num_tokens, hidden], dtype of x; rows may be strided; written
    quant_dtype: torch.dtype = torch.float8_e4m3fn,  # or torch.int8
) -> tuple[Tensor, Tensor]:
    """Normalise each token and quantise it by a scale of its own.

    With a `residual`, `x` is added to it in place first, as vLLM's fused_add_rms_norm does, and the sum as it is stored
    (rounded to the dtype) is what is normalised; `x` itself is not changed. The two may not overlap. All else is
    computed in float32 and rounded once, by the quantisation.

    Returns the quantised tokens, [num_tokens, hidden], and their scales, [num_tokens, 1], float32: a token is about
    `quantised * scale`. A token that holds an infinity or NaN, or whose squares overflow float32, gets the scale NaN.
    Raises RuntimeError for other dtypes, layouts and shapes than those above, no elements a row, epsilon not above 0.
    """
    quantized, scales = torch.ops.docmill.rms_norm_quant(x, weight, residual, epsilon, quant_dtype)
    return quantized, scales


def _check(
    x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float, quant_dtype: torch.dtype
) -> None:
    op = "rms_norm_quant"
    check_dtype(op, "x", x, FLOATS)
    check_quant_dtype(op, quant_dtype)
    check_dtype(op, "weight", weight, (x.dtype,))
    check_rows(op, "x", x)
    check_vector(op, "weight", weight)
    torch._check(x.size(1) > 0, lambda: f"{op}: x must have at least one element a row")
    check_size(op, "weight", weight, 0, x.size(1))
    if residual is not None:
        check_dtype(op, "residual", residual, (x.dtype,))
        check_rows(op, "residual", residual)
        check_size(op, "residual", residual, 0, x.size(0))
        check_size(op, "residual", residual, 1, x.size(1))
        torch._check(
            residual.size(0) <= 1 or residual.stride(0) >= residual.size(1),
            lambda: f"{op}: rows of residual must not overlap",
        )
    torch._check(epsilon > 0, lambda: f"{op}: epsilon must be positive, it is {epsilon}")


def _native(
    x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float, quant_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    _check(x, weight, residual, epsilon, quant_dtype)
    return compute(x, weight, residual, epsilon, quant_dtype)


def compute(
    x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float, quant_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The twin without its checks, which torch.compile cannot look through: what the kernel is measured against."""
    if residual is not None:
        x = residual.copy_(x.float() + residual.float())
    values = x.float()
    mean_square = values.square().mean(-1, keepdim=True)
    normalized = values * weight.float() * (mean_square + epsilon).rsqrt()
    return quantize_rows(normalized.masked_fill(~mean_square.isfinite(), math.nan), quant_dtype)


def _fake(
    x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float, quant_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    _check(x, weight, residual, epsilon, quant_dtype)
    return x.new_empty(x.shape, dtype=quant_dtype), x.new_empty((x.size(0), 1), dtype=torch.float32)


declare(
    "rms_norm_quant(Tensor x, Tensor weight, Tensor(a!)? residual, float epsilon, ScalarType quant_dtype)"
    " -> (Tensor, Tensor)",
    native=_native,
    fake=_fake,
)
