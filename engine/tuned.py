"""Settings that `docmill tune` has measured to be faster, and the engine that they are for.

They join a job's own where the engine is built, since only there the device is known. What the job says itself stays,
and none of them changes what is asked or answered: a request is the same with and without them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from docmill.engine.config import EngineConfig

CPU_TUNABLE = ("max_num_seqs", "max_num_batched_tokens", "kv_cache_gib")
GPU_TUNABLE = ("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization")
Tunable = Annotated[str, Field(pattern=f"^({'|'.join({*CPU_TUNABLE, *GPU_TUNABLE})})$")]
# They decide nothing about speed, or follow from what is counted elsewhere.
_NOT_COUNTED = {"device", "seed", "max_restarts", "hang_seconds"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Part):
    """What decides which settings are the fastest ones, all of it: elsewhere they are not used."""

    model_fingerprint: str
    written: str  # hash of what the job's file says of the engine, see `place_of`
    hardware: str  # see `hardware`


class TunedEngine(_Part):
    """One engine and its settings. The figures are for people."""

    place: Place
    settings: dict[Tunable, int | float]
    speedup: float  # over the settings before
    measured_at: datetime
    documents: int  # of each trial


def place_of(config: EngineConfig, *, model_fingerprint: str, hardware: str) -> Place:
    """The place of an engine with these settings of a job."""
    written = config.model_dump_json(exclude=_NOT_COUNTED, exclude_defaults=True)
    return Place(
        model_fingerprint=model_fingerprint,
        written=xxhash.xxh3_64_hexdigest(written.encode()),
        hardware=hardware,
    )


def free_settings(config: EngineConfig, *, on_cpu: bool) -> list[str]:
    """Those that the job leaves to docmill. `extra` has the last word with vLLM, so what stands there is not free."""
    if config.kind == "fake":
        return ["max_num_seqs"] if config.max_num_seqs is None else []
    memory = "kv_cache_memory_bytes" in config.extra
    return [
        name
        for name in (CPU_TUNABLE if on_cpu else GPU_TUNABLE)
        if getattr(config, name) is None
        and name not in config.extra
        and not (memory and name in ("kv_cache_gib", "gpu_memory_utilization"))
    ]


def find_tuned(
    config: EngineConfig, known: Iterable[TunedEngine], *, model_fingerprint: str, hardware: str
) -> dict[str, Any]:
    """The settings to add to the job's own; none where nothing was measured for this very engine."""
    place = place_of(config, model_fingerprint=model_fingerprint, hardware=hardware)
    return next((dict(engine.settings) for engine in known if engine.place == place), {})
