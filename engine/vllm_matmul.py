"""Matrix products of rows that are quantised already: how to reach them in vLLM's linear layers.

A linear layer of vLLM whose activations are 8-bit quantises them and multiplies, in one call. Only of some kernels can
that call be entered behind the quantisation, and only where nothing else stands before it; `matmul_of` knows those, and
says of any other layer why it is none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm import _custom_ops, envs
from vllm.model_executor.kernels.linear.scaled_mm.cutlass import CutlassInt8ScaledMMLinearKernel
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    Int8ScaledMMLinearKernel,
)
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsLinearMethod,
)
from vllm.model_executor.layers.quantization.online.fp8 import Fp8PtpcOnlineLinearMethod
from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8DynamicTokenSym

from docmill.engine.vllm_w8a8 import EightBitMethod, float_product

NOT_EIGHT_BITS = "no linear layer of the model takes 8-bit activations"


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
    if envs.VLLM_BATCH_INVARIANT:
        return "VLLM_BATCH_INVARIANT is set"
    method = linear.quant_method
    # Of exactly these types: what comes from them may do something to the activations first.
    if type(method) is EightBitMethod:
        if method.kernel is None:
            return _float_matmul(linear, method.quant_dtype)
        return _by_kernel(linear, method.kernel)
    if type(method) is Fp8PtpcOnlineLinearMethod:
        return _by_kernel(linear, method.fp8_linear)
    if type(method) is CompressedTensorsLinearMethod:
        kernel = getattr(linear.scheme, "fp8_linear", None) or getattr(linear.scheme, "kernel", None)
        return NOT_EIGHT_BITS if kernel is None else _by_kernel(linear, kernel)
    return NOT_EIGHT_BITS


def _by_kernel(linear: nn.Module, kernel: Any) -> Matmul | str:
    """By that which vLLM has chosen."""
    if isinstance(kernel, FP8ScaledMMLinearKernel):
        if kernel.config.activation_quant_key != kFp8DynamicTokenSym:
            return "the model's FP8 activations have no scale of their own for each token"
        if type(kernel).apply_weights is not FP8ScaledMMLinearKernel.apply_weights:
            return f"vLLM's {type(kernel).__name__} quantises by itself"
        if kernel._get_layer_params(linear)[3] is not None:
            return "the model's FP8 activations have an upper bound"
        return _fp8_matmul(linear, kernel)
    if isinstance(kernel, Int8ScaledMMLinearKernel):
        if kernel.config.is_static_input_scheme or not kernel.config.input_symmetric:
            return "the model's INT8 activations have no symmetric scale of their own for each token"
        if type(kernel) is not CutlassInt8ScaledMMLinearKernel:  # Triton's is derived from it
            return f"vLLM's {type(kernel).__name__} quantises by itself"
        return _int8_matmul(linear, kernel)
    return NOT_EIGHT_BITS


def _fp8_matmul(linear: nn.Module, kernel: Any) -> Matmul:
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


def _int8_matmul(linear: nn.Module, kernel: Any) -> Matmul:
    def multiply(values: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        weight, weight_scale = kernel._get_layer_params(linear)[:2]  # [in, out], one scale an output
        return _custom_ops.cutlass_scaled_mm(
            values, weight, scale_a=scales, scale_b=weight_scale, out_dtype=dtype, bias=bias
        )

    return Matmul(torch.int8, multiply)


def _float_matmul(linear: nn.Module, quant_dtype: torch.dtype) -> Matmul:
    def multiply(values: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        return float_product(linear, values, scales, bias, dtype)

    return Matmul(quant_dtype, multiply)
