"""How old answers may become: Dagster's own daemon looks, and says which are overdue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.freshness import FreshnessDaemon

from docmill.ops.errors import JobError
from docmill.pipelines.definitions import docmill_definitions
from docmill.pipelines.job_files import load_job
from docmill.pipelines.ui import prepare_dagster_home

WriteJob = Callable[..., Path]
NAMES = ("documents", "topics", "translations", "report")


@pytest.fixture
def workspace(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceProcessContext]:
    """Dagster as `docmill ui` sets it up, over a job whose answers may be 26 hours old."""
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job(freshness={"within_hours": 26}).parent))
    code = LoadableTargetOrigin(module_name="docmill.pipelines.definitions", attribute="docmill_definitions")
    with (
        DagsterInstance.from_config(str(prepare_dagster_home())) as instance,
        WorkspaceProcessContext(
            instance, InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code))
        ) as found,
    ):
        yield found


def look(workspace: WorkspaceProcessContext, *, hours_later: float = 0) -> dict[str, str]:
    """What Dagster holds of each asset after a look of its daemon at that time."""
    keys = [AssetKey(["tickets", name]) for name in NAMES]
    with freeze_time(time.time() + timedelta(hours=hours_later).total_seconds()):
        list(FreshnessDaemon().run_iteration(workspace))
    records = workspace.instance.get_freshness_state_records(keys)
    return {key.path[-1]: record.freshness_state.value for key, record in records.items()}


def test_answers_pass_until_they_are_too_old_and_again_after_a_run(
    workspace: WorkspaceProcessContext,
) -> None:
    assert workspace.instance.freshness_enabled
    assert set(look(workspace).values()) == {"UNKNOWN", "NOT_APPLICABLE"}
    run = docmill_definitions().resolve_job_def("tickets")
    assert run.execute_in_process(instance=workspace.instance, partition_key="2026-11-20").success
    fresh = {"documents": "NOT_APPLICABLE", "topics": "PASS", "translations": "PASS", "report": "PASS"}
    assert look(workspace, hours_later=25.5) == fresh
    overdue = {name: "FAIL" if state == "PASS" else state for name, state in fresh.items()}
    assert look(workspace, hours_later=26.5) == overdue
    assert look(workspace) == fresh


@pytest.mark.parametrize(
    ("freshness", "words"),
    [
        ({}, "freshness.within_hours: is missing"),
        ({"within_hours": 0}, "freshness.within_hours: expected greater than or equal to 0.1"),
        ({"hours": 26}, "freshness.hours: there is no such key; allowed: within_hours"),
    ],
)
def test_what_cannot_be_meant_is_an_error_of_the_job_file(
    freshness: dict[str, Any], words: str, write_job: WriteJob
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(str(write_job(freshness=freshness)))
    assert words in str(caught.value)
