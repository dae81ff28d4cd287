"""`docmill backfill`: which days, what they would cost, and a real Dagster that works through them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.ui import prepare_dagster_home

WriteJob = Callable[..., Path]
DAYS = ["2026-11-18", "2026-11-19", "2026-11-20"]


@pytest.fixture
def path(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of three days, which Dagster knows."""
    path = write_job(source__generate__days=DAYS, engine={"kind": "fake", "extra": {"step_seconds": 0.01}})
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    return path


def days_of(found: Any) -> tuple[list[str], list[str]]:
    return found["days"]["to_run"], found["days"]["up_to_date"]


def test_days_that_are_complete_are_left_out(path: Path, cli: Any) -> None:
    assert days_of(cli.json("backfill", path, "--dry-run")) == (DAYS, [])
    assert cli("run", path, "--partition", DAYS[1]).exit_code == 0
    assert days_of(cli.json("backfill", path, "--dry-run")) == ([DAYS[0], DAYS[2]], [DAYS[1]])
    assert days_of(cli.json("backfill", path, "--dry-run", "--all")) == (DAYS, [])
    assert days_of(cli.json("backfill", path, "--dry-run", "--from", DAYS[1])) == ([DAYS[2]], [DAYS[1]])
    assert days_of(cli.json("backfill", path, "--dry-run", "--to", DAYS[0])) == ([DAYS[0]], [])


def test_only_the_tasks_that_are_asked_for_count(path: Path, cli: Any) -> None:
    assert cli("run", path, "--partition", DAYS[0], "--tasks", "topics").exit_code == 0
    assert days_of(cli.json("backfill", path, "--dry-run", "--tasks", "topics"))[1] == [DAYS[0]]
    assert days_of(cli.json("backfill", path, "--dry-run"))[1] == []


def test_a_dry_run_prices_each_day_and_starts_nothing(path: Path, cli: Any) -> None:
    unknown = cli("backfill", path, "--dry-run")
    assert "2026-11-18 12 documents, price unknown" in unknown.stdout
    assert "in all     unknown: run a day once" in unknown.stdout
    assert cli("run", path, "--partition", DAYS[0]).exit_code == 0
    found = cli.json("backfill", path, "--dry-run", "--all")
    priced = [each["usd"]["expected"] for each in found["estimates"]]
    assert len(priced) == 3
    assert all(usd > 0 for usd in priced)
    shown = cli("backfill", path, "--dry-run", "--all")
    assert f"in all     {sum(priced):.4f} USD" in shown.stdout
    with DagsterInstance.from_config(str(prepare_dagster_home())) as instance:
        assert list(instance.get_backfills()) == []


def test_without_a_daemon_the_backfill_waits_for_one_and_it_says_so(path: Path, cli: Any) -> None:
    result = cli("backfill", path, "--tasks", "topics", "--max-parallel", 2)
    assert result.exit_code == 0, result.output
    assert "days       3 to run, 2026-11-18 to 2026-11-20" in result.stdout
    assert "no Dagster daemon runs here: start `docmill ui`, and it begins" in result.stderr
    with DagsterInstance.from_config(str(prepare_dagster_home())) as instance:
        [backfill] = instance.get_backfills()
        assert {key.path[-1] for key in backfill.asset_selection or ()} == {"topics", "report"}
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert limits["docmill_engine"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "2026-11-20", "--to", "2026-11-18"], "--from 2026-11-20 is after --to 2026-11-18"),
        (["--from", "yesterday"], "--from takes a day such as 2026-11-20"),
        (["--tasks", "topcs"], "did you mean 'topics'?"),
    ],
)
def test_options_that_cannot_be_meant_so_are_refused(
    arguments: list[str], words: str, path: Path, cli: Any
) -> None:
    result = cli("backfill", path, *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr


def test_a_job_that_dagster_cannot_find_is_refused(write_job: WriteJob, cli: Any) -> None:
    result = cli("backfill", write_job())
    assert result.exit_code == ExitCode.USAGE
    assert "put the file into a folder of DOCMILL_JOBS" in result.stderr


def test_a_job_without_days_is_refused(write_job: WriteJob, cli: Any) -> None:
    path = write_job(source={"uri": "own", "partition_key": None})
    result = cli("backfill", path)
    assert result.exit_code == ExitCode.USAGE
    assert "is not partitioned (source.partition_key is null): use `docmill run`" in result.stderr
