"""Layers that put our kernels into vLLM's models: a norm or an activation that hands 8-bit rows to the next matrix.

In a model whose linear layers compute with 8-bit activations, vLLM writes what a norm or an activation has computed to
memory, and the linear layer reads it again to quantise it. Here the two are one pass: `RmsNormQuant` and `SiluMulQuant`
return `QuantizedRows` where vLLM's layers return a tensor. The models pass that on as it is, and `TakesQuantizedRows`,
in the place of the linear layer's method, multiplies it without another quantisation.

Plain modules, tuples, and ops of torch.library: torch.compile traces them, CUDA graphs hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm

from docmill.engine.vllm_matmul import Matmul, matmul_of
from docmill.kernels.rms_norm_quant import rms_norm_quant
from docmill.kernels.silu_mul_quant import silu_mul_quant

# Read in vLLM 0.25 and 0.32: each norm's and each activation's result goes into one linear layer and nowhere else.
# Other models have layers of the same names that do other things with it.
THEIR_MODELS = "vllm.model_executor.models."
DECODER_LAYERS = frozenset(
    {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
)
MLPS = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP"})  # Qwen3's is Qwen2's


class QuantizedRows(NamedTuple):
    """Activations of which each token was quantised with a scale of its own."""

    values: Tensor  # [num_tokens, size], int8 or float8_e4m3fn, contiguous
    scales: Tensor  # [num_tokens, 1], float32
    dtype: torch.dtype  # of the activations that they stand for, and of what is made of them


class RmsNormQuant(nn.Module):
    """In the place of an RMSNorm whose result only one linear layer reads. Shares its weight."""

    def __init__(self, norm: RMSNorm, quant_dtype: torch.dtype):
        super().__init__()
        self.weight, self.variance_epsilon, self.quant_dtype = norm.weight, norm.variance_epsilon, quant_dtype

    def forward(
        self, x: Tensor, residual: Tensor | None = None
    ) -> QuantizedRows | tuple[QuantizedRows, Tensor]:
        """`x`: [num_tokens, hidden]. As vLLM's, a residual is added first, in place, and comes back too."""
        values, scales = rms_norm_quant(
            x, self.weight, self.variance_epsilon, residual=residual, quant_dtype=self.quant_dtype
        )
        rows = QuantizedRows(values, scales, x.dtype)
        return rows if residual is None else (rows, residual)


class SiluMulQuant(nn.Module):
    """In the place of a SiluAndMul before a linear layer."""

    def __init__(self, _activation: SiluAndMul, quant_dtype: torch.dtype):
        super().__init__()
        self.quant_dtype = quant_dtype

    def forward(self, gate_up: Tensor) -> QuantizedRows:
        """`gate_up`: [num_tokens, 2 * width]."""
        return QuantizedRows(*silu_mul_quant(gate_up, quant_dtype=self.quant_dtype), gate_up.dtype)


class TakesQuantizedRows:
    """A loaded linear layer's method that takes `QuantizedRows`; a tensor goes to the method it has had."""

    def __init__(self, method: Any, matmul: Matmul):
        self._method, self._matmul = method, matmul

    def apply(self, layer: nn.Module, x: Tensor | QuantizedRows, bias: Tensor | None = None) -> Tensor:
        """`x`: [num_tokens, in]. Returns [num_tokens, out]."""
        if isinstance(x, QuantizedRows):
            return self._matmul.multiply(x.values, x.scales, bias, x.dtype)
        return self._method.apply(layer, x, bias)


class Place(NamedTuple):
    """A layer that could be ours, `getattr(parent, name)`, and the linear layer that alone reads its result."""

    parent: nn.Module
    name: str
    linear: nn.Module


def fuse(model: nn.Module, ops: Sequence[str]) -> dict[str, int | str]:
    """Put our layers into `model`, whose weights are loaded. For each op: into how many places, or why into none."""
    return {op: _fuse_op(op, [*PLACES[op](model)]) for op in ops}


def _fuse_op(op: str, places: Sequence[Place]) -> int | str:
    theirs, ours = LAYERS[op]
    num_layers, reason = 0, "the model's layers are not those of Llama, Mistral, Qwen2 or Qwen3"
    for parent, name, linear in places:
        layer, matmul = getattr(parent, name), matmul_of(linear)
        if type(layer) is not theirs or not _is_plain(layer):
            reason = f"the model's {name} is a {type(layer).__name__} of its own kind"
        elif isinstance(matmul, str):
            reason = matmul
        else:
            setattr(parent, name, ours(layer, matmul.quant_dtype))
            linear.quant_method = TakesQuantizedRows(linear.quant_method, matmul)
            num_layers += 1
    return num_layers or reason


def _decoder_layers(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        kind = type(module)
        is_known = kind.__name__ in DECODER_LAYERS and kind.__module__.startswith(THEIR_MODELS)
        if (
            is_known and getattr(module, "ada_rms_norm_t_cond", None) is None
        ):  # some Mistrals scale after the norm
            yield module


def _norms(model: nn.Module) -> Iterator[Place]:
    for layer in _decoder_layers(model):
        yield Place(layer, "input_layernorm", layer.self_attn.qkv_proj)
        if type(layer.mlp).__name__ in MLPS:
            yield Place(layer, "post_attention_layernorm", layer.mlp.gate_up_proj)


def _activations(model: nn.Module) -> Iterator[Place]:
    for layer in _decoder_layers(model):
        if type(layer.mlp).__name__ in MLPS:
            yield Place(layer.mlp, "act_fn", layer.mlp.down_proj)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a norm has a weight and goes over the whole row."""
    return not isinstance(layer, RMSNorm) or (layer.has_weight and layer.variance_size_override is None)


PLACES: dict[str, Callable[[nn.Module], Iterator[Place]]] = {
    "rms_norm_quant": _norms,
    "silu_mul_quant": _activations,
}
LAYERS: dict[str, tuple[type, Any]] = {
    "rms_norm_quant": (RMSNorm, RmsNormQuant),
    "silu_mul_quant": (SiluAndMul, SiluMulQuant),
}
