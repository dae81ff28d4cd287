"""Takes layers, attention heads and FFN channels out of a model in memory, those that the sequences miss least.

layers      by block influence, 1 - cosine of a layer's input and output (Men et al. 2024, ShortGPT, 2403.03853)
heads       whole groups: a key/value head with its query heads, by what they cost o_proj, see `surgeon`
channels    of the FFN: rows of gate and up, and the inputs of down_proj, by what they cost it, see `surgeon`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from docmill.engine.compression.divergence import final_hidden
from docmill.engine.compression.sequences import Batch
from docmill.engine.compression.surgeon import remove_inputs
from docmill.engine.compression.walk import Walk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Positions = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """What a config says of all layers alike, and how many there are."""

    num_layers: int
    num_kv_heads: int
    ffn_width: int


def size_of(model: PreTrainedModel) -> Size:
    """As it is now."""
    config = model.config
    return Size(config.num_hidden_layers, config.num_key_value_heads, config.intermediate_size)


@torch.no_grad()
def influences(model: PreTrainedModel, read: Sequence[Batch]) -> list[float]:
    """Of each layer, a mean over tokens: 0 where it leaves its input's direction as it is."""
    layers = model.base_model.layers
    sums, num_tokens = [0.0] * len(layers), 0
    real: Tensor

    def note(position: int, before: Tensor, after: Tensor) -> None:
        sums[position] += float(
            (1 - F.cosine_similarity(before[real].float(), after[real].float(), dim=-1)).sum()
        )

    hooks = [
        layer.register_forward_hook(lambda _, args, out, position=position: note(position, args[0], out))
        for position, layer in enumerate(layers)
    ]
    try:
        for batch in read:
            real = batch.attention_mask.bool().to(model.device)
            num_tokens += int(real.sum())
            final_hidden(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [total / num_tokens for total in sums]


def drop_layers(model: PreTrainedModel, positions: set[int]) -> None:
    """Those that stay move together; the config follows."""
    config, base = model.config, model.base_model
    stay = [position for position in range(len(base.layers)) if position not in positions]
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[position] for position in stay]
    if getattr(config, "max_window_layers", None) is not None:  # the first so many see everything
        config.max_window_layers = sum(position < config.max_window_layers for position in stay)
    base.layers = nn.ModuleList(base.layers[position] for position in stay)
    config.num_hidden_layers = len(stay)
    for position, layer in enumerate(base.layers):
        layer.self_attn.layer_idx = position


def narrow(
    model: PreTrainedModel, read: Sequence[Batch], size: Size, *, tell: Callable[[float], None]
) -> list[tuple[Positions, Positions]]:
    """Narrows every layer to `size`, each for what comes into it from those narrowed before.

    Returns for each layer which key/value heads and which channels are gone.
    """
    num_heads, num_channels = (
        model.config.num_key_value_heads - size.num_kv_heads,
        model.config.intermediate_size - size.ffn_width,
    )
    walk = Walk(model, read)
    gone: list[tuple[Positions, Positions]] = []
    for prefix, layer in zip(walk.layer_names, model.base_model.layers, strict=True):
        heads: Positions = ()
        channels: Positions = ()
        if num_heads:
            products = _products(walk, f"{prefix}.self_attn.o_proj")
            heads = _without_heads(layer.self_attn, products, num_heads)
        if num_channels:
            products = _products(walk, f"{prefix}.mlp.down_proj")
            channels = _without_channels(layer.mlp, products, num_channels)
        gone.append((heads, channels))
        walk.advance()
        tell(len(gone) / len(walk.layer_names))
    config = model.config
    config.head_dim = model.base_model.layers[0].self_attn.head_dim  # no longer hidden_size / heads
    config.num_attention_heads = size.num_kv_heads * (
        config.num_attention_heads // config.num_key_value_heads
    )
    config.num_key_value_heads, config.intermediate_size = size.num_kv_heads, size.ffn_width
    return gone


def _products(walk: Walk, name: str) -> Tensor:
    return walk.products([name])[name]


def _without_heads(attention: nn.Module, products: Tensor, number: int) -> Positions:
    size = attention.head_dim
    queries = size * attention.num_key_value_groups  # of one key/value head
    stay, weight = remove_inputs(attention.o_proj.weight, products, group_size=queries, num_groups=number)
    total = attention.o_proj.in_features // queries
    _set_weight(attention.o_proj, weight)
    _keep_outputs(attention.q_proj, _members(stay, queries))
    for layer in (attention.k_proj, attention.v_proj):
        _keep_outputs(layer, _members(stay, size))
    return _others(stay, total)


def _without_channels(mlp: nn.Module, products: Tensor, number: int) -> Positions:
    total = mlp.down_proj.in_features
    stay, weight = remove_inputs(mlp.down_proj.weight, products, group_size=1, num_groups=number)
    _set_weight(mlp.down_proj, weight)
    for layer in (mlp.gate_proj, mlp.up_proj):
        _keep_outputs(layer, stay)
    return _others(stay, total)


def _members(groups: Tensor, size: int) -> Tensor:
    """Positions of all members of groups of neighbours."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def _others(stay: Tensor, total: int) -> Positions:
    return tuple(sorted(set(range(total)) - set(stay.tolist())))


def _keep_outputs(layer: nn.Linear, rows: Tensor) -> None:
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[rows].clone())
    _set_weight(layer, layer.weight.detach()[rows].clone())


def _set_weight(layer: nn.Linear, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight)
    layer.out_features, layer.in_features = weight.shape
