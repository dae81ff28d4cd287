"""A step in Dagster that is terminated, retried, or stopped by its budget: nothing is lost, and little done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    ExecuteInProcessResult,
    RetryPolicy,
)

from docmill.engine.errors import EngineDied
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion
from docmill.ops import worker
from docmill.pipelines import assets
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"
DOCUMENTS = 1500
SLOW_DEFINITIONS = str(Path(__file__).with_name("slow_definitions.py"))

WriteJob = Callable[..., Path]


@pytest.fixture
def job_file(write_job: WriteJob) -> Path:
    """Work for the slow engine for twenty seconds, in more than ten units."""
    return write_job(
        source__generate__days=[DAY],
        source__generate__documents_per_day=DOCUMENTS,
        engine__max_in_flight=32,
        ledger={"unit_seconds": 2.0, "segment_seconds": 1.0, "lease_seconds": 6.0},
    )


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}}))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture
def execute(job_file: Path, dagster_home: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `dagster job execute`: a run in one process, each step in another."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        where = ["-d", str(Path(SLOW_DEFINITIONS).parent), "-f", SLOW_DEFINITIONS, "-j", "tickets"]
        command = [sys.executable, "-m", "dagster", "job", "execute", *where]
        tags = ["--tags", json.dumps({"dagster/partition": DAY})]
        with (dagster_home / "log.txt").open("ab") as log:
            environment = os.environ | {"DOCMILL_JOBS": str(job_file.parent)}
            started.append(subprocess.Popen([*command, *tags], env=environment, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def report_of(job_file: Path) -> Any:
    return json.loads((job_file.parent / "answers" / "_docmill" / f"dt={DAY}" / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(280)  # Dagster starts four processes for it, which import everything
def test_a_terminated_step_ends_soon_and_the_run_made_again_does_only_the_rest(
    execute: Callable[[], subprocess.Popen[bytes]], job_file: Path, dagster_home: Path, cli: Any
) -> None:
    first = execute()
    deadline = time.monotonic() + 120
    while cli.json("status", job_file, "--partition", DAY)["documents_done"] < DOCUMENTS / 6:
        assert first.poll() is None, (dagster_home / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    with DagsterInstance.get() as instance:  # what "Terminate" on Dagster's pages does, before the signal
        instance.report_run_canceling(instance.get_runs()[0])
    started = time.monotonic()
    first.send_signal(signal.SIGTERM)
    first.wait(timeout=60)
    assert time.monotonic() - started < 30
    status = cli.json("status", job_file, "--partition", DAY)
    assert status["state"] == "interrupted"
    assert status["units_done"] > 0
    second = execute()
    assert second.wait(timeout=120) == 0, (dagster_home / "log.txt").read_text()[-3000:]
    report = report_of(job_file)
    answered, computed = report["tokens"]["prompt"], report["computed_tokens"]["prompt"]
    assert report["documents"] == DOCUMENTS
    assert 0.95 * answered <= computed <= 1.1 * answered, "of both runs together"
    assert report["earlier_worker_seconds"] > 0
    with DagsterInstance.get() as instance:
        runs = sorted(instance.get_run_records(), key=lambda record: record.create_timestamp)
        assert [run.dagster_run.status for run in runs] == [
            DagsterRunStatus.CANCELED,
            DagsterRunStatus.SUCCESS,
        ]
        entries = instance.all_logs(runs[0].dagster_run.run_id)
    said = [entry.user_message for entry in entries]
    [failure] = [
        entry.dagster_event
        for entry in entries
        if entry.is_dagster_event and entry.dagster_event.is_step_failure
    ]
    assert (
        "Run the same job again: it does the rest" in failure.step_failure_data.user_failure_data.description
    )
    assert not [
        entry for entry in entries if entry.is_dagster_event and entry.dagster_event.is_step_up_for_retry
    ]
    assert len([message for message in said if message.startswith("running: ")]) <= 2, (
        "a line in half a minute"
    )


class DiesOnce(FakeEngine):
    """The first of them dies in the middle."""

    num_opened = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).num_opened += 1
        self._answers_left = DOCUMENTS if self.num_opened == 1 else 1_000_000

    def completions(self, timeout_seconds: float) -> list[Completion]:
        found = super().completions(timeout_seconds)
        self._answers_left -= len(found)
        if self._answers_left < 0:
            raise EngineDied("killed by the test", self.num_in_flight)
        return found


def run_in_process(job_file: Path, instance: DagsterInstance) -> ExecuteInProcessResult:
    job = load_job(str(job_file))
    definitions = Definitions(assets=assets.job_assets(job), jobs=[assets.job_run(job)])
    return definitions.resolve_job_def(job.name).execute_in_process(
        instance=instance,
        partition_key=DAY,
        asset_selection=[AssetKey([job.name, name]) for name in (*job.tasks, "report")],
        raise_on_error=False,
    )


def test_a_retry_goes_on_where_the_attempt_before_ended(
    job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiesOnce, "num_opened", 0)
    monkeypatch.setattr(worker, "start_engine", lambda *_: DiesOnce())
    monkeypatch.setattr(assets, "RETRY", RetryPolicy(max_retries=2))  # without the half minute between
    with DagsterInstance.ephemeral() as instance:
        result = run_in_process(job_file, instance)
    assert result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    report = report_of(job_file)
    answered, computed = report["tokens"]["prompt"], report["computed_tokens"]["prompt"]
    assert 0.95 * answered <= computed <= 1.1 * answered, "of both attempts together"
    [event] = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == AssetKey(["tickets", "report"])
    ]
    shown = {key: value.value for key, value in event.materialization.metadata.items()}
    assert shown["earlier_worker_seconds"] > 0
    assert (shown["workers"], shown["dead_letters"], shown["incidents"]) == (1, 0, 0)
    assert shown["tokens_computed_again"] <= 0.1 * answered


def test_a_spent_budget_is_a_failure_that_no_retry_repeats(write_job: WriteJob) -> None:
    path = write_job(source__generate__hostile=True, budget={"max_failed_share": 0.001})
    with DagsterInstance.ephemeral() as instance:
        job = load_job(str(path))
        result = (
            Definitions(assets=assets.job_assets(job), jobs=[assets.job_run(job)])
            .resolve_job_def(job.name)
            .execute_in_process(instance=instance, partition_key="2026-11-19", raise_on_error=False)
        )
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    [failure] = [event for event in result.get_step_failure_events() if event.step_key == "tickets__answers"]
    told = str(failure.step_failure_data.user_failure_data.description)
    assert told.startswith("budget.max_failed_share: ")
    assert "Raise the limit first" in told
