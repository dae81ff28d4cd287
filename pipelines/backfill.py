"""A range of days, or hours, as one Dagster backfill, which the pages show, and can cancel.

Dagster's daemon works through it, a run a day; as many at once as the engines' pool has places (`docmill_engine`).
Limits by tag, by op and by pool do not combine in Dagster (dagster#25743): docmill uses the pool alone. Only days that
are not up to date are asked for, and a day that is run again costs what is new in it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmill.data import storage
from docmill.data.finished import is_within
from docmill.data.layout import source_folder
from docmill.ops.job import Job
from docmill.ops.partitions import list_partitions
from docmill.ops.up_to_date import is_up_to_date
from docmill.pipelines.partitions import time_partitions
from docmill.pipelines.ui import prepare_dagster_home

if TYPE_CHECKING:
    from dagster import DagsterInstance

POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Days:
    """Of the source, between the first and the last day asked for."""

    to_run: list[str]
    up_to_date: list[str]  # answered from their present files by the job as it is
    not_over: list[str]  # Dagster does not offer them yet


@dataclass(frozen=True, slots=True)
class BackfillState:
    """How far a backfill is: its days by the status of their runs."""

    is_over: bool
    succeeded: int
    failed: int
    running: int
    total: int

    @property
    def is_complete(self) -> bool:
        """Whether every day has succeeded."""
        return self.is_over and self.succeeded == self.total


def choose_backfill_days(
    job: Job, *, first: str | None, last: str | None, tasks: Sequence[str] | None, everything: bool
) -> Days:
    """What is to be done. `everything`: days that are up to date as well."""
    days = Days([], [], [])
    offered = time_partitions(job)
    assert offered is not None, "the command asks for a job with days"
    for day in list_partitions(job):
        if not is_within(day, first, last):
            continue
        if not offered.has_partition_key(day):
            days.not_over.append(day)
            continue
        partition = job.partition(day)
        if not everything and is_up_to_date(
            job, partition, storage.list_shards(source_folder(job.source.uri, partition)), tasks
        ):
            days.up_to_date.append(day)
        else:
            days.to_run.append(day)
    return days


def open_instance() -> DagsterInstance:
    """The Dagster of this machine, the one that `docmill ui` starts."""
    from dagster import DagsterInstance

    return DagsterInstance.from_config(str(prepare_dagster_home()))


def daemon_is_running(instance: DagsterInstance) -> bool:
    """Whether somebody works through backfills: `docmill ui`, or a daemon of one's own."""
    status = instance.get_daemon_statuses(["BACKFILL"])["BACKFILL"]
    return bool(status.healthy)


def set_engines(instance: DagsterInstance, number: int) -> None:
    """How many days may run at once, of all jobs: the places of the engines' pool, from now on."""
    from docmill.pipelines.engine_step import ENGINE_POOL

    instance.event_log_storage.set_concurrency_slots(ENGINE_POOL, number)


def launch(instance: DagsterInstance, job: Job, days: Sequence[str], tasks: Sequence[str] | None) -> str:
    """Put the backfill into the daemon's hands. Returns its id."""
    from dagster._core.execution.backfill import PartitionBackfill  # as Dagster's own pages make one
    from dagster._core.utils import make_new_backfill_id

    from docmill.pipelines.asset_keys import COMPRESSED_MODEL, REPORT, key_of
    from docmill.pipelines.definitions import docmill_definitions

    names = [*([COMPRESSED_MODEL] if job.model.compress else []), *(tasks or job.tasks), REPORT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Dagster's about Dagster
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id=make_new_backfill_id(),
            asset_graph=docmill_definitions().get_repository_def().asset_graph,
            partition_names=list(days),
            asset_selection=[key_of(job, name) for name in names],
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=f"docmill backfill {job.name}",
            description=None,
            run_config=None,
        )
    instance.add_backfill(backfill)
    return str(backfill.backfill_id)


def look_at(instance: DagsterInstance, backfill_id: str, total: int) -> BackfillState:
    """How far it is."""
    from dagster import DagsterRunStatus, RunsFilter
    from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
    from dagster._core.storage.tags import BACKFILL_ID_TAG

    backfill = instance.get_backfill(backfill_id)
    assert backfill is not None, "it was added by this process"
    # Of a day that was tried again the last run counts.
    last: dict[str, DagsterRunStatus] = {}
    for run in reversed(instance.get_runs(RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}))):
        last[run.tags.get("dagster/partition", "")] = run.status
    counted = list(last.values())
    return BackfillState(
        is_over=backfill.status in BULK_ACTION_TERMINAL_STATUSES,
        succeeded=counted.count(DagsterRunStatus.SUCCESS),
        failed=counted.count(DagsterRunStatus.FAILURE) + counted.count(DagsterRunStatus.CANCELED),
        running=counted.count(DagsterRunStatus.STARTED) + counted.count(DagsterRunStatus.STARTING),
        total=total,
    )


def wait_for(
    instance: DagsterInstance, backfill_id: str, total: int, on_change: Callable[[BackfillState], None]
) -> BackfillState:
    """Until it is over; says each change. Ends early, not over, where the daemon is gone."""
    state = None
    while True:
        now = look_at(instance, backfill_id, total)
        if now != state:
            on_change(now)
        state = now
        if state.is_over or not daemon_is_running(instance):
            return state
        time.sleep(POLL_SECONDS)
