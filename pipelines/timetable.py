"""What starts a job by itself in Dagster: its schedule, and a sensor that sees its documents arrive.

Both are on as soon as the job's file has them; Dagster's pages switch them off and on. They only ask for runs: a
partition that is complete costs a run that looks at it and ends.
"""

# No `from __future__ import annotations` here: Dagster reads the type of `context` from the function itself.

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dagster import (
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    partition_loading_context,
    schedule,
    sensor,
)

from docmill.data import storage
from docmill.data.layout import source_folder
from docmill.ops.job import Job
from docmill.ops.partitions import list_partitions, version_of
from docmill.ops.sources import ensure_source
from docmill.ops.up_to_date import is_up_to_date
from docmill.pipelines.partitions import time_partitions

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

WHOLE = "all"  # of the cursor and run keys, where the source is one partition


def job_schedule(job: Job, run: "UnresolvedAssetJobDefinition") -> ScheduleDefinition | None:
    """Starts the last partition that is over at the time of the tick; None for a job without `schedule`."""
    if job.schedule is None:
        return None
    partitions, period = time_partitions(job), job.source.period

    @schedule(
        name=f"{job.name}__schedule",
        cron_schedule=job.schedule.cron,
        execution_timezone=job.schedule.timezone,
        job=run,
        description=f"Runs `{job.name}`{f' for the last {period.name} that is over' if partitions else ''}",
        default_status=DefaultScheduleStatus.RUNNING,
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        if partitions is None:
            return RunRequest()
        with partition_loading_context(effective_dt=context.scheduled_execution_time):
            last = partitions.get_last_partition_key()
        if last is None:
            first = period.value_at(partitions.start)
            return SkipReason(f"no {period.name} of the source is over yet; the first is {first}")
        return RunRequest(partition_key=last)

    return tick


def arrival_sensor(job: Job, run: "UnresolvedAssetJobDefinition") -> SensorDefinition | None:
    """Starts a partition when its files have settled and its answers are of others; None for a job without `arrival`.

    The cursor holds the version of each watched partition's files and since when they have it. The same version is
    never started twice, whether or not its run succeeded.
    """
    if job.arrival is None:
        return None
    settled, look_back = job.arrival.settled, job.arrival.look_back
    partitions = time_partitions(job)

    @sensor(
        name=f"{job.name}__arrivals",
        job=run,
        minimum_interval_seconds=job.arrival.interval_seconds,
        description=f"Runs `{job.name}` for a partition whose files have been the same for {settled}",
        default_status=DefaultSensorStatus.RUNNING,
    )
    def look(context: SensorEvaluationContext) -> SensorResult:
        ensure_source(job)
        seen, now = json.loads(context.cursor or "{}"), time.time()
        watched: dict[str, dict[str, object]] = {}
        requests = []
        for key in _watched(job, look_back):
            if partitions is not None and not partitions.has_partition_key(key):
                continue  # today, or this hour: there may be more to come
            partition = job.partition(None if partitions is None else key)
            shards = storage.list_shards(source_folder(job.source.uri, partition))
            version = version_of(shards)
            known = seen.get(key, {})
            since = known["since"] if known.get("version") == version else now
            watched[key] = {"version": version, "since": since}
            is_settled = shards and now - since >= settled.total_seconds()
            if is_settled and not is_up_to_date(job, partition, shards):
                run_key = f"{key} {version}"
                requests.append(RunRequest(run_key, partition_key=None if partitions is None else key))
        why = None if requests else f"of {len(watched)} partitions none has settled files without answers"
        return SensorResult(requests, skip_reason=why, cursor=json.dumps(watched))

    return look


def _watched(job: Job, look_back: int) -> Iterator[str]:
    if job.source.partition_key is None:
        yield WHOLE
    else:
        yield from list_partitions(job)[-look_back:]
