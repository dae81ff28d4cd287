"""`engine.quantization: int8 | fp8`: 8-bit weights and activations of any model, made while it loads.

Weights get a scale for each output channel, activations one for each token as they come: what checkpoints of the
formats INT8 W8A8 and FP8 dynamic hold. On a GPU vLLM does FP8 itself (`fp8_per_channel`); INT8 is ours, with vLLM's own
product: the weights are loaded in 16 bits first, and experts of a mixture stay so. On a CPU the products are computed
in float32 from the 8-bit numbers (exact for INT8 of up to 1,040 inputs): the answers are those of 8 bits, memory and
speed those of 32. It is there to try things out.

Seam: `register_quantization_config`, by the plugin, see `vllm_plugin`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.model_executor.kernels.linear import init_int8_linear_kernel
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.utils import set_weight_attrs
from vllm.platforms import current_platform

from docmill.kernels._quantization import quantize_rows

KERNEL_ATTRIBUTES = ("input_scale", "input_zero_point", "azp_adj")  # of static and asymmetric schemes: none


class EightBitMethod(LinearMethodBase):
    """One linear layer's weights and product."""

    def __init__(self, quant_dtype: torch.dtype):
        self.quant_dtype = quant_dtype
        self.kernel: Any = None  # vLLM's; on a CPU it has none that takes float32

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,  # noqa: ARG002 - vLLM names its arguments
        output_size: int,  # noqa: ARG002
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """As the checkpoint has them: [out, in], dtype of the model."""
        shape = (sum(output_partition_sizes), input_size_per_partition)
        weight = nn.Parameter(torch.empty(shape, dtype=params_dtype), requires_grad=False)
        set_weight_attrs(weight, {"input_dim": 1, "output_dim": 0})
        layer.register_parameter("weight", weight)
        set_weight_attrs(weight, extra_weight_attrs)
        layer.logical_widths = output_partition_sizes
        if not current_platform.is_cpu():
            self.kernel = init_int8_linear_kernel(
                is_channelwise=True, is_static_input_scheme=False, input_symmetric=True, module_name="docmill"
            )

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Quantise them, each output channel by a scale of its own."""
        values, scales = quantize_rows(layer.weight.data.float(), self.quant_dtype)
        layer.weight_scale = nn.Parameter(scales, requires_grad=False)
        for name in KERNEL_ATTRIBUTES:
            setattr(layer, name, None)
        if self.kernel is None:
            values = values.float()
        layer.weight = nn.Parameter(values, requires_grad=False)
        if self.kernel is not None:
            self.kernel.process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x`: [num_tokens, in], quantised here. Returns [num_tokens, out]."""
        if self.kernel is not None:
            return self.kernel.apply_weights(layer, x, bias)
        return float_product(layer, *quantize_rows(x.float(), self.quant_dtype), bias, x.dtype)


def float_product(
    layer: nn.Module,
    values: Tensor,  # [num_tokens, in], 8-bit
    scales: Tensor,  # [num_tokens, 1], float32
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """[num_tokens, out] of `dtype`: what 8-bit hardware gives, computed in float32."""
    products = F.linear(values.float(), layer.weight) * scales * layer.weight_scale.t()
    return (products if bias is None else products + bias).to(dtype)


class _EightBitConfig(QuantizationConfig):
    """All linear layers; embeddings and the LM head stay as they are."""

    name: str
    quant_dtype: torch.dtype

    def get_name(self) -> str:
        return self.name

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, *([torch.float32] if current_platform.is_cpu() else [])]

    @classmethod
    def get_min_capability(cls) -> int:
        return 80

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, _config: dict[str, Any]) -> _EightBitConfig:
        return cls()

    def get_quant_method(self, layer: nn.Module, prefix: str) -> EightBitMethod | None:  # noqa: ARG002
        return EightBitMethod(self.quant_dtype) if isinstance(layer, LinearBase) else None


@register_quantization_config("docmill_int8")
class Int8Config(_EightBitConfig):
    """INT8 W8A8."""

    name, quant_dtype = "docmill_int8", torch.int8


@register_quantization_config("docmill_fp8")
class Fp8Config(_EightBitConfig):
    """FP8 e4m3 W8A8, on a CPU."""

    name, quant_dtype = "docmill_fp8", torch.float8_e4m3fn
