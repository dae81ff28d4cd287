"""A backfill in `docmill ui` whose daemon is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
from dagster import DagsterRunStatus, RunsFilter
from docmill_ui import DocmillUi, wait_until

from docmill.pipelines.backfill import look_at, open_instance

StartUi = Callable[..., DocmillUi]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_backfill_goes_on_after_its_daemon_was_killed_and_doubles_nothing(
    start_ui: StartUi, write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    """And so does the run that died with it: nobody has to end it by hand."""
    days = [f"2026-11-{day}" for day in range(17, 20)]
    engine = {"kind": "fake", "max_num_seqs": 4, "extra": {"step_seconds": 1.0}}
    path = write_job(source__generate__days=days, engine=engine)
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    first = start_ui()
    first.repository()
    backfill_id = cli.json("backfill", path)["backfill"]["id"]
    with open_instance() as instance:
        wait_until(lambda: look_at(instance, backfill_id, len(days)).succeeded >= 1)
        wait_until(lambda: bool(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))))
        children = psutil.Process(first.process.pid).children(recursive=True)
        [daemon] = [child for child in children if "dagster._daemon" in child.cmdline()]
        daemon.kill()
        first.process.communicate(timeout=120)
        assert first.process.returncode != 0, "it has lost its daemon, and says so"
        state = look_at(instance, backfill_id, len(days))
        assert state.succeeded < len(days), "there was nothing left to go on with"
        start_ui()
        wait_until(lambda: look_at(instance, backfill_id, len(days)).is_over)
        assert look_at(instance, backfill_id, len(days)).is_complete
        [died] = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        events = [entry.dagster_event for entry in instance.all_logs(died.run_id)]
        messages = [event.message or "" for event in events if event]
        assert any("is gone, and so is the code server" in message for message in messages), messages[-3:]
    answers = pl.read_parquet(path.parent / "answers/topics/**/*.parquet", hive_partitioning=True)
    assert answers.group_by("dt").len()["len"].to_list() == [12] * len(days)
    assert answers["doc_id"].n_unique() == 12 * len(days)
