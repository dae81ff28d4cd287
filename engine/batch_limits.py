"""How much an engine computes at once, and half of it: what `supervised_engine` tries when memory has run out."""

from __future__ import annotations

from typing import Any

from docmill.engine.config import EngineConfig
from docmill.engine.types import EngineInfo

# Where the engine died before it could say what it chose: what it starts with where nothing is configured, or less
# (vLLM's own for offline batches on a GPU are 256 and 8,192 or more; on a CPU `vllm_settings` says 64 and vLLM 2,048).
UNKNOWN = {"max_num_seqs": 64, "max_num_batched_tokens": 2048}
# Below these nothing is saved any more: the model itself does not fit.
SMALLEST = {"max_num_seqs": 1, "max_num_batched_tokens": 256}


def lowered(config: EngineConfig, info: EngineInfo | None) -> tuple[EngineConfig, dict[str, int]] | None:
    """Settings with half the limits, and those limits; None where they are at the floor.

    `info` is what the engine chose by itself where the settings say nothing.
    """
    now: dict[str, int] = {}
    for name, unknown in UNKNOWN.items():
        chosen = getattr(info, name, None) if info is not None else None
        now[name] = config.extra.get(name) or getattr(config, name) or chosen or unknown
    limits = {name: max(SMALLEST[name], limit // 2) for name, limit in now.items()}
    limits["max_num_batched_tokens"] = max(limits["max_num_batched_tokens"], limits["max_num_seqs"])
    if all(limits[name] >= now[name] for name in now):
        return None
    limits = {name: min(limit, now[name]) for name, limit in limits.items()}
    # `extra` has the last word with vLLM, so a limit that stands there too must go.
    extra: dict[str, Any] = {name: value for name, value in config.extra.items() if name not in limits}
    return config.model_copy(update={**limits, "extra": extra}), limits
