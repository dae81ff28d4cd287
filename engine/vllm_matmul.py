"""Matrix products of rows that are quantised already: how to reach them in vLLM's linear layers.

A linear layer of vLLM whose activations are 8-bit quantises them and multiplies, in one call. Only for some kernels
that call can be entered behind the quantisation; `matmul_of` knows them, and says of any other layer why it cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm import _custom_ops
from vllm.model_executor.kernels.linear.scaled_mm.cutlass import CutlassInt8ScaledMMLinearKernel
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    Int8ScaledMMLinearKernel,
)
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8DynamicTokenSym


@dataclass(frozen=True)
class Matmul:
    """One linear layer's matrix product.

    `multiply(values, scales, bias, dtype)`: `values` [num_tokens, in] of `quant_dtype`, `scales` [num_tokens, 1],
    float32; returns [num_tokens, out] of `dtype`.
    """

    quant_dtype: torch.dtype
    multiply: Callable[[Tensor, Tensor, Tensor | None, torch.dtype], Tensor]


def matmul_of(linear: nn.Module) -> Matmul | str:
    """Of a layer whose weights are loaded; or why rows cannot be quantised for it, in one line."""
    if not isinstance(linear, LinearBase):
        return f"a {type(linear).__name__} is around the model's linear layers"
    method = linear.quant_method
    if hasattr(method, "matmul"):  # one of ours, see vllm_w8a8
        matmul: Matmul = method.matmul(linear)
        return matmul
    kernel = _kernel_of(linear, method)
    if kernel is None:
        return "no linear layer of the model takes 8-bit activations"
    if isinstance(kernel, FP8ScaledMMLinearKernel):
        if kernel.config.activation_quant_key != kFp8DynamicTokenSym:
            return "the model's FP8 activations have no scale of their own for each token"
        if type(kernel).apply_weights is not FP8ScaledMMLinearKernel.apply_weights:
            return f"vLLM's {type(kernel).__name__} quantises by itself"
        return fp8_matmul(linear, kernel)
    if not isinstance(kernel, Int8ScaledMMLinearKernel):
        return f"vLLM's {type(kernel).__name__} takes no 8-bit rows with a scale for each token"
    if kernel.config.is_static_input_scheme or not kernel.config.input_symmetric:
        return "the model's INT8 activations have no symmetric scale of their own for each token"
    if not isinstance(kernel, CutlassInt8ScaledMMLinearKernel):
        return f"vLLM's {type(kernel).__name__} quantises by itself"
    return int8_matmul(linear, kernel)


def fp8_matmul(linear: nn.Module, kernel: Any) -> Matmul:
    """By the kernel that vLLM has chosen."""

    def multiply(values: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        weight, weight_scale = kernel._get_layer_params(linear)[:2]  # [in, out], one scale an output
        return kernel.apply_scaled_mm(
            A=values,
            B=weight,
            out_dtype=dtype,
            As=scales,
            Bs=weight_scale,
            bias=bias,
            output_shape=[values.shape[0], weight.shape[1]],
        )

    return Matmul(torch.float8_e4m3fn, multiply)


def int8_matmul(linear: nn.Module, kernel: Any) -> Matmul:
    """By CUTLASS."""

    def multiply(values: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        weight, weight_scale = kernel._get_layer_params(linear)[:2]  # [in, out], one scale an output
        return _custom_ops.cutlass_scaled_mm(
            values, weight, scale_a=scales, scale_b=weight_scale, out_dtype=dtype, bias=bias
        )

    return Matmul(torch.int8, multiply)


def _kernel_of(linear: nn.Module, method: Any) -> Any:
    """Where the quantisation methods of vLLM 0.25 and 0.32 keep it: compressed-tensors in a scheme of the layer."""
    for holder in (getattr(linear, "scheme", None), method):
        for name in ("fp8_linear", "kernel"):
            if (kernel := getattr(holder, name, None)) is not None:
                return kernel
    return None
