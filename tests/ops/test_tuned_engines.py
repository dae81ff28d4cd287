"""Settings that were tuned: where they lie, that runs, plans and probes go by them, and that requests do not change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from counting_engine import CountingEngine

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.engine.hardware import hardware_of
from docmill.engine.tuned import TunedEngine, place_of
from docmill.ops.estimate import estimate_partition
from docmill.ops.job import Job
from docmill.ops.probe import is_measured, probe
from docmill.ops.profile import engine_key, read_profile
from docmill.ops.tuned_engines import forget_tuned, read_tuned, store_tuned

DAY = "2026-11-20"


def tuned(
    job: Job, *, hardware: str | None = None, model: str = "fake", max_num_seqs: int = 7
) -> TunedEngine:
    here = hardware_of(job.engine, "cpu")
    return TunedEngine(
        place=place_of(job.engine, model_fingerprint=model, hardware=hardware or here),
        settings={"max_num_seqs": max_num_seqs},
        speedup=1.5,
        measured_at=datetime(2026, 11, 1, tzinfo=UTC),
        documents=9,
    )


def test_a_run_goes_by_what_was_tuned_and_answers_the_same(folder: Any) -> None:
    folder.write("a", [f"Text {number}." for number in range(30)])
    before = folder.run()
    plain = {name: folder.answers(name, "a") for name in before.tasks}
    job = folder.job()
    store_tuned(job.output.uri, tuned(job))
    report = folder.run()
    assert (before.engine_settings.tuned, before.engine_settings.settings) == ({}, {"max_num_seqs": 64})
    assert report.engine_settings.tuned == report.engine_settings.settings == {"max_num_seqs": 7}
    assert report.engine_settings.hardware == hardware_of(job.engine, "cpu")
    for name in report.tasks:
        assert folder.answers(name, "a") == plain[name], (
            "request keys and answers are those of the run before"
        )
    assert report.plan == before.plan


def test_what_was_answered_before_counts_for_a_tuned_run_too(folder: Any) -> None:
    folder.write("a", [f"Text {number}." for number in range(30)])
    first = CountingEngine()
    folder.run(engine=first, reuse={"runs": 4})
    job = folder.job(reuse={"runs": 4})
    store_tuned(job.output.uri, tuned(job))
    report = folder.run(reuse={"runs": 4})
    assert sum(task.reused_requests for task in report.tasks.values()) == report.requests


@pytest.mark.parametrize(
    ("elsewhere", "engine"),
    [
        ({"hardware": "fake, 640 threads of another, 9 GiB"}, {"kind": "fake"}),
        ({"model": "another"}, {"kind": "fake"}),
        ({}, {"kind": "fake", "max_num_seqs": 20}),  # what the job says stays
    ],
)
def test_what_was_tuned_elsewhere_or_for_another_job_is_not_used(
    folder: Any, elsewhere: dict[str, Any], engine: dict[str, Any]
) -> None:
    folder.write("a", ["One.", "Two."])
    store_tuned(folder.job().output.uri, tuned(folder.job(), **elsewhere))
    folder.settings["engine"] = engine
    report = folder.run()
    assert report.engine_settings.tuned == {}
    assert report.engine_settings.settings == {"max_num_seqs": engine.get("max_num_seqs", 64)}


def test_the_same_place_is_stored_once_and_a_model_is_forgotten_alone(folder: Any) -> None:
    job = folder.job()
    uri = job.output.uri
    store_tuned(uri, tuned(job))
    store_tuned(uri, tuned(job, model="another"))
    store_tuned(uri, tuned(job, hardware="fake, elsewhere"))
    store_tuned(uri, tuned(job, max_num_seqs=9))
    assert [engine.settings["max_num_seqs"] for engine in read_tuned(uri)] == [7, 7, 9]
    assert forget_tuned(uri, "fake") == 2
    assert [engine.place.model_fingerprint for engine in read_tuned(uri)] == ["another"]
    assert forget_tuned(uri, "fake") == 0


@pytest.mark.parametrize(
    "content", [b"{", b'{"tuning_version": 99, "engines": []}', b'{"engines": [{"a": 1}]}']
)
def test_a_file_that_cannot_be_read_hinders_no_run_and_is_written_anew(folder: Any, content: bytes) -> None:
    folder.write("a", ["One."])
    job = folder.job()
    storage.put_bytes(Layout.tuning(job.output.uri), content)
    assert folder.run().engine_settings.tuned == {}
    store_tuned(job.output.uri, tuned(job))
    assert folder.run().engine_settings.tuned == {"max_num_seqs": 7}


def test_tuned_and_untuned_speeds_are_told_apart(folder: Any) -> None:
    """What a plan goes by is measured with the settings that the run will have."""
    folder.write("a", [f"Text {number}." for number in range(30)])
    folder.settings["engine"] = {"kind": "fake", "extra": {"step_seconds": 0.1}}
    folder.run()
    job, partition = folder.job(), folder.job().partition(DAY)
    assert is_measured(job)
    store_tuned(job.output.uri, tuned(job))
    assert not is_measured(job)
    assert estimate_partition(job, partition, tokenizer=folder.tokenizer).wall_seconds is None
    report = probe(job, partition, tokenizer=folder.tokenizer)
    assert report.engine_settings.tuned == {"max_num_seqs": 7}, "a probe runs as a run would"
    assert is_measured(job)
    keys = {engine_key(job, "fake"), engine_key(job, "fake", {"max_num_seqs": 7})}
    assert set(read_profile(job).engines) == keys
    assert len(keys) == 2
    before = estimate_partition(job, partition, tokenizer=folder.tokenizer)
    forget_tuned(job.output.uri, "fake")
    after = estimate_partition(job, partition, tokenizer=folder.tokenizer)
    assert before.engine_seconds is not None
    assert after.engine_seconds is not None
    assert before.engine_seconds.expected > after.engine_seconds.expected  # 7 a step, not 64


def test_where_the_device_is_not_known_the_last_measured_of_the_possible_counts(folder: Any) -> None:
    """Workers of a pool are on other machines: a plan made here cannot know their device."""
    folder.write("a", [f"Text {number}." for number in range(10)])
    folder.settings["engine"] = {"kind": "fake", "extra": {"step_seconds": 0.01}}
    here = folder.job()
    store_tuned(here.output.uri, tuned(here, hardware="fake, 640 threads of another, 9 GiB"))
    folder.run()
    assert is_measured(here)  # the tuned engine is elsewhere
    pool = {"pool": {"kind": "ray", "workers": 2}}
    far = folder.job(**pool)
    assert not is_measured(far)
    profile = read_profile(here)
    engine = next(iter(profile.engines.values()))
    profile.engines = {engine_key(far, "fake", {"max_num_seqs": 7}): engine}
    storage.put_bytes(Layout.profile(here.output.uri), profile.model_dump_json().encode())
    assert is_measured(far)
