"""The linear layers that have one precision together.

vLLM keeps q, k and v as one product, and gate and up: their layers must have the same scheme. So what precision is
chosen for is the product, by vLLM's own name for it.
"""

from __future__ import annotations

from collections.abc import Iterable

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def layer_groups(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of layers by the product that they are part of: {"model.layers.0.self_attn.qkv_proj": (…q_proj, …)}."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        group = f"{parent}.{FUSED.get(last, last)}"
        groups[group] = (*groups.get(group, ()), name)
    return groups
