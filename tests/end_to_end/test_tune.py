"""The real vLLM with settings that were tuned: what is measured, that runs have them, and answer the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from end_to_end.recorder import DAY

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.hardware import known_hardware
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.tuned import TunedEngine, place_of
from docmill.ops.job import Job
from docmill.ops.partition_job import model_fingerprint_of, run_partition
from docmill.ops.probe import is_measured
from docmill.ops.report import now
from docmill.ops.tuned_engines import store_tuned
from docmill.ops.tuning_trials import tune_job

if TYPE_CHECKING:
    from docmill.engine.vllm_engine import VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SETTINGS: dict[str, int | float] = {"max_num_seqs": 48, "max_num_batched_tokens": 1024, "kv_cache_gib": 0.5}


def tuned(job: Job, config: EngineConfig, settings: dict[str, int | float]) -> TunedEngine:
    hardware = known_hardware(config)
    assert hardware is not None, "this machine has vLLM's CPU build"
    place = place_of(config, model_fingerprint=model_fingerprint_of(job), hardware=hardware)
    return TunedEngine(place=place, settings=settings, speedup=1.1, measured_at=now(), documents=60)


def test_a_trial_measures_the_engine_as_a_run_would_have_it(
    tmp_path: Path, demo_job: Callable[..., Job]
) -> None:
    job = demo_job(tmp_path, documents=60, seed=11)
    # So little time that it makes two runs: one to look, and the present settings as a trial.
    found = tune_job(job, job.partition(DAY), seconds=1, num_documents=40)
    present = found.tuned.present
    assert found.tuned.verdict == "too little time"
    assert present.settings == {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "kv_cache_gib": 1.0}
    assert present.speed is not None
    assert present.speed > 0
    assert present.load_seconds > 1
    assert 0 < present.kv_cache_peak < 0.5
    assert 0 < present.most_running <= 64
    assert found.hardware == known_hardware(job.engine)
    assert is_measured(job), "the trial has taught the profile"


def test_a_run_has_the_tuned_settings_and_answers_as_it_does_without(
    tmp_path: Path, vllm_engine: VllmEngine, demo_job: Callable[..., Job], demo_tokenizer: ModelTokenizer
) -> None:
    job = demo_job(tmp_path, documents=60, seed=11, reuse={"runs": 0})
    partition = job.partition(DAY)
    plain = run_partition(job, partition, engine=vllm_engine, tokenizer=demo_tokenizer)
    without = {task: answers(job, task) for task in job.tasks}
    assert is_measured(job)
    store_tuned(job.output.uri, tuned(job, job.engine, SETTINGS))
    assert not is_measured(job)
    report = run_partition(job, partition, tokenizer=demo_tokenizer)
    assert report.engine_settings.tuned == report.engine_settings.settings == SETTINGS
    assert plain.engine_settings.tuned == {}
    assert report.requests == plain.requests
    assert max(point.num_running for point in report.timeline) <= 48
    assert is_measured(job)
    for task in job.tasks:
        assert answers(job, task).equals(without[task]), task


def test_an_engine_whose_tuned_cache_does_not_fit_any_more_runs_without_it(
    tmp_path: Path, demo_job: Callable[..., Job]
) -> None:
    config = EngineConfig(memory_gib=8)
    known = tuned(demo_job(tmp_path, documents=1), config, {"kv_cache_gib": 400.0})
    engine = start_engine(ModelConfig(), config, [known])
    try:
        assert engine.wait_until_loaded(120)
        assert engine.info.tuned == {}
        assert engine.info.settings["kv_cache_gib"] == 1.0
        (incident,) = engine.incidents
        assert incident.action == "started without what was tuned"
        assert "400" in incident.message
    finally:
        engine.close()


def answers(job: Job, task: str) -> pl.DataFrame:
    """All that a reader sees but the time, and scores and cached tokens, which hang on who was computed beside whom."""
    table = pl.read_parquet(f"{job.output.uri}/{task}/**/*.parquet", hive_partitioning=True)
    return table.select(pl.exclude("produced_at", "score", "label_scores", "cached_tokens"))
