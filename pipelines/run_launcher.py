"""Starts runs as Dagster does on one machine, and sees which of them have died with the Dagster that started them.

Dagster 1.13 leaves it to the code server to notice that a run's process has died. Where that was killed too (`docmill
ui` was ended during a run, its daemon died, the machine started anew), the run counts as under way for ever, holds the
engine's place, and no backfill around it ends. `dagster.yaml` names this launcher, which Dagster's run monitoring asks.
"""

from __future__ import annotations

import json

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG

CLOCK_SECONDS = 2.0  # between what Linux says of a process's start and what Dagster noted


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's own, but for what it says of runs that nobody looks after."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """So that run monitoring asks."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Failed where process and code server are gone. What cannot be seen from here counts as running."""
        socket = json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")
        if not socket:  # on another machine, or started by hand
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        found = self._process(run)
        if found is None or _is_alive(*found) or _answers(socket):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND,
            f"process {found[0]} is gone, and so is the code server that had started it",
        )

    def _process(self, run: DagsterRun) -> tuple[int, float] | None:
        """Id of the run's process, and when it said so."""
        for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
            event = entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid") if event else None
            if pid is not None:
                return int(str(pid.value)), entry.timestamp
        return None


def _answers(socket: str) -> bool:
    """Whether the code server still runs: then it tells itself how the run has ended."""
    from dagster._grpc.client import DagsterGrpcClient  # gRPC, which only the daemon wants

    try:
        DagsterGrpcClient(socket=socket).ping("")
    except DagsterUserCodeUnreachableError:
        return False
    return True


def _is_alive(pid: int, named_at: float) -> bool:
    """Whether the process that had this number at that time still runs."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= named_at + CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
