"""How many days `docmill ui` runs side by side: as many as the engines' pool has places."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from docmill_ui import DocmillUi
from readme import Shell, told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

StartUi = Callable[..., DocmillUi]
WriteJob = Callable[..., Path]


def test_two_days_at_once_run_one_after_the_other(
    start_ui: StartUi, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two runs of a fresh Dagster: when it has not met the engine's pool before, it lets both through."""
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job().parent))
    ui = start_ui()
    for day in ("2026-11-19", "2026-11-20"):
        ui.launch("tickets", day)
    first, second = ui.finished_runs(2)
    assert (first["status"], second["status"]) == ("SUCCESS", "SUCCESS")
    assert first["endTime"] <= second["startTime"]


def test_a_backfill_runs_the_days_two_at_a_time_and_each_once(
    start_ui: StartUi, write_job: WriteJob, tmp_path: Path
) -> None:
    """By the README's commands."""
    days = [f"2026-11-{day}" for day in range(15, 20)]
    path = write_job(
        "my-job", source__generate__days=days, engine={"kind": "fake", "extra": {"step_seconds": 0.01}}
    )
    shell = Shell(path.parent, tmp_path / "programs")
    shell.export(told("export DOCMILL_JOBS=$PWD"))
    shell.run(f"docmill run my-job.yaml --partition {days[0]}")  # so there is nothing to do about it
    ui = start_ui(told("docmill ui"), shell=shell)
    ui.repository()
    dry = shell.run(told("docmill backfill my-job.yaml --from 2026-11-01 --to 2026-11-20 --dry-run"))
    assert f"1 up to date, {days[0]}: left out" in dry
    assert re.search(r"in all +0\.\d+ USD", dry)
    waited = shell.run(
        told("docmill backfill my-job.yaml --from 2026-11-01 --to 2026-11-20 --max-parallel 2 --wait"),
        timeout=400,
    )
    assert f"4 to run, {days[1]} to {days[-1]}" in waited
    assert waited.splitlines()[-1] == "4 of 4 days done, 0 running"
    runs = ui.finished_runs(4)
    assert {run["status"] for run in runs} == {"SUCCESS"}
    moments = sorted([(run["startTime"], 1) for run in runs] + [(run["endTime"], -1) for run in runs])
    together = [sum(change for _, change in moments[: place + 1]) for place in range(len(moments))]
    assert max(together) == 2
    again = json.loads(shell.run("docmill backfill my-job.yaml --wait --json"))
    assert (again["days"]["to_run"], again["days"]["up_to_date"]) == ([], days)
    assert "backfill" not in again
