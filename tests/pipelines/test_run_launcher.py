"""Which runs Dagster's run monitoring takes for dead; tests/pipelines/test_ui_killed.py has the whole way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, MetadataValue
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test
from readme import ROOT


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def health(instance: DagsterInstance, pid: int, server: dict[str, object] | None) -> tuple[WorkerStatus, str]:
    """Of a run that this process has, and that this code server has started."""
    tags = {GRPC_INFO_TAG: json.dumps(server)} if server else {}
    run = create_run_for_test(instance, "tickets", status=DagsterRunStatus.STARTED, tags=tags)
    instance.report_engine_event("begun", run, EngineEventData({"pid": MetadataValue.text(str(pid))}))
    assert instance.run_launcher.supports_check_run_worker_health
    found = instance.run_launcher.check_run_worker_health(run)
    return found.status, found.msg or ""


def test_a_run_is_dead_when_its_process_and_its_code_server_are_gone(
    instance: DagsterInstance, dead_pid: int, tmp_path: Path
) -> None:
    server: dict[str, object] = {"host": "localhost", "socket": str(tmp_path / "gone")}
    status, message = health(instance, dead_pid, server)
    assert status is WorkerStatus.NOT_FOUND
    assert message == f"process {dead_pid} is gone, and so is the code server that had started it"
    assert health(instance, os.getpid(), server) == (WorkerStatus.RUNNING, "")


def test_a_run_that_was_started_elsewhere_is_left_alone(instance: DagsterInstance, dead_pid: int) -> None:
    """Its process is another machine's."""
    assert health(instance, dead_pid, {"host": "code", "port": 4000}) == (WorkerStatus.RUNNING, "")
    assert health(instance, dead_pid, None) == (WorkerStatus.RUNNING, "")
