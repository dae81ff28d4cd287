"""`docmill plan`: the table, the lines, the JSON; that its figures are right is in ops/test_estimate.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.engine.model_files import fingerprint, resolve_model
from docmill.engine.steps import NO_STEPS
from docmill.ops.job import Job
from docmill.ops.profile import EngineProfile, Profile, engine_key
from docmill.ops.step_costs import StepCosts
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"
WriteJob = Callable[..., Path]
Cli = Any


def priced(path: Path) -> Job:
    """The job, with a profile as if it had run before: 1 ms a token, 4 ms a sequence and step, 7 s to load."""
    job = load_job(str(path))
    model_fingerprint = (
        job.engine.kind
        if job.engine.kind == "fake"
        else fingerprint(resolve_model(job.model), job.model.revision)
    )
    engine = EngineProfile(
        device="cpu", max_model_len=2048, max_num_seqs=64, max_num_batched_tokens=None, kv_cache_tokens=None,
        costs=StepCosts(one=0.002, tokens=0.001, sequences=0.004), step_products=list(NO_STEPS.products),
        low=0.9, high=1.2, load_seconds=6.0, fixed_seconds=1.0, assembling_seconds_per_document=0.0,
        measured_at=datetime(2026, 11, 1, tzinfo=UTC), documents=100,
    )  # fmt: skip
    profile = Profile(engines={engine_key(job, model_fingerprint): engine})
    storage.put_bytes(Layout.profile(job.output.uri), profile.model_dump_json().encode())
    return job


def test_it_prices_a_partition_by_what_runs_have_shown(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(prices={"usd_per_hour": {"cpu": 3.6}})
    priced(path)
    found = cli.json("plan", path, "--partition", DAY)
    tokens = {
        name: sum(task[name] for task in found["tasks"].values())
        for name in ("prompt_tokens", "cached_tokens", "output_tokens")
    }
    asked = sum(task["requests"] - task["duplicate_requests"] for task in found["tasks"].values())
    computed = tokens["prompt_tokens"] - tokens["cached_tokens"] + tokens["output_tokens"] - asked
    busy = computed * 0.001 + tokens["output_tokens"] * 0.004
    # Also the time of reading it, and of the steps themselves: all that is asked runs together.
    assert found["wall_seconds"]["expected"] == pytest.approx(7.0 + busy, abs=0.5)
    assert found["usd"]["expected"] == pytest.approx(found["wall_seconds"]["expected"] * 0.001)
    shares = [task["usd"]["expected"] for task in found["tasks"].values()]
    assert sum(shares) == pytest.approx(found["usd"]["expected"])
    for value in (found["wall_seconds"], found["usd"]):
        assert value["low"] < value["expected"] < value["high"]


def test_what_it_prints_and_what_the_report_says_of_it(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(prices={"usd_per_hour": {"cpu": 3.6}})
    priced(path)
    planned = cli("plan", path, "--partition", DAY)
    assert planned.exit_code == 0, planned.output
    lines = [line.split()[0] for line in planned.stdout.splitlines() if line.strip()]
    assert {"documents", "time", "cost", "measured"} <= set(lines)
    assert " at 3.60 an hour" in planned.stdout
    ran = cli("run", path, "--partition", DAY)
    assert "expected " in ran.stdout
    assert "; it was " in ran.stdout


def test_without_a_price_or_a_measurement_it_says_what_is_missing(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(prices=None)
    unmeasured = cli("plan", path, "--partition", DAY, "--probe", "0")
    assert unmeasured.exit_code == 0
    assert "time       unknown: nothing was measured yet" in unmeasured.stdout
    priced(path)
    assert (
        "cost       unknown: prices.usd_per_hour says nothing about 'cpu'"
        in cli("plan", path, "--partition", DAY).stdout
    )


def test_a_task_that_no_run_has_shown_has_a_wide_range(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    job = priced(path)
    before = cli.json("plan", path, "--partition", DAY)["wall_seconds"]
    cli("run", path, "--partition", DAY)
    profile = json.loads(storage.read_bytes(Layout.profile(job.output.uri)))
    assert set(profile["lengths"]) == {job.settings_hash(name) for name in job.tasks}
    storage.delete_folder(f"{job.output.uri}/_docmill/answers")  # or nothing would be left to ask
    after = cli.json("plan", path, "--partition", DAY)["wall_seconds"]
    assert after["high"] / after["expected"] < before["high"] / before["expected"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "nonsense"], "nonsense"),
        (["--partition", "2031-01-01"], "2031-01-01"),
        (["--probe", "-1"], "--probe"),
    ],
)
def test_bad_input_is_named(write_job: WriteJob, cli: Cli, arguments: list[str], words: str) -> None:
    path = write_job()
    result = cli("plan", path, "--partition", DAY, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_profile_is_begun_anew(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    job = priced(path)
    storage.put_bytes(Layout.profile(job.output.uri), b"{")
    assert cli.json("plan", path, "--partition", DAY, "--probe", "0")["wall_seconds"] is None
    assert cli("run", path, "--partition", DAY).exit_code == 0
    assert yaml.safe_load(storage.read_bytes(Layout.profile(job.output.uri)))["lengths"]
