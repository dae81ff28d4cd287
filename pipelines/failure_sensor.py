"""Tells the job's hook (`on_failure`) of every run over the job's assets that has failed and is not tried again.

Dagster's own run failure sensor goes on when telling has failed, and nobody hears of the run. This one stays where it
is: its look fails, which Dagster shows, and the next one tells again, until the hook has answered or a day has passed.
A hook may so hear of a run twice, and knows it by its id.
"""

# No `from __future__ import annotations` here: Dagster reads the type of `context` from the function itself.

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dagster import (
    DagsterEventType,
    DagsterRun,
    DefaultSensorStatus,
    EventLogRecord,
    RunStatusChangeRecordsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)
from dagster._core.storage.tags import WILL_RETRY_TAG

from docmill.ops.job import Job
from docmill.pipelines.answer_rows import clip
from docmill.pipelines.asset_keys import all_keys
from docmill.pipelines.hooks import HookFailed, post
from docmill.pipelines.logs import without_secrets

MOST_TOLD = 4  # in one look: a look may take a minute, and a hook that hangs is waited for
MOST_READ = 100
SECONDS_TO_TRY = 24 * 3600.0  # then a hook that never answers does not hide the failures behind it
MOST_CHARS = 500  # of what went wrong


def failure_sensor(job: Job) -> SensorDefinition | None:
    """None for a job without `on_failure`, or where the environment leaves its address empty."""
    hook = job.on_failure
    if hook is None or not hook.url.get_secret_value():
        return None

    @sensor(
        name=f"{job.name}__failures",
        description=f"Tells the hook of `on_failure` when a run of `{job.name}` has failed",
        minimum_interval_seconds=30,
        default_status=DefaultSensorStatus.RUNNING,
    )
    def look(context: SensorEvaluationContext) -> SkipReason:
        if context.cursor is None:  # what failed before there was a sensor is nobody's concern
            newest = _failures(context, after=None)
            context.update_cursor(str(newest[0].storage_id if newest else -1))
            return SkipReason("from now on")
        told = 0
        for record in _failures(context, after=int(context.cursor)):
            if told == MOST_TOLD:
                break
            run = context.instance.get_run_by_id(record.run_id)
            message = _message(job, context, run, record) if run else None
            if message is not None:
                try:
                    post(hook.url, message)
                    told += 1
                except HookFailed as error:
                    if time.time() - record.timestamp < SECONDS_TO_TRY:
                        if told == 0:
                            raise  # the cursor stays
                        return SkipReason(f"told of {told} failed runs; then {error}")
                    context.log.warning("nobody was told that run %s failed: %s", record.run_id, error)
            context.update_cursor(str(record.storage_id))
        return SkipReason(f"told of {told} failed runs")

    return look


def _failures(context: SensorEvaluationContext, *, after: int | None) -> list[EventLogRecord]:
    """Those behind the cursor, the oldest first; without one the newest alone."""
    wanted = RunStatusChangeRecordsFilter(event_type=DagsterEventType.RUN_FAILURE, after_storage_id=after)
    is_first = after is None
    found = context.instance.fetch_run_status_changes(
        wanted, limit=1 if is_first else MOST_READ, ascending=not is_first
    )
    return list(found.records)


def _message(
    job: Job, context: SensorEvaluationContext, run: DagsterRun, record: EventLogRecord
) -> dict[str, Any] | None:
    """What the hook gets; None of a run that is another's, or that Dagster starts once more."""
    if run.tags.get(WILL_RETRY_TAG) == "true" or not _is_here(context, run):
        return None
    failed = dict(_failed_steps(context, run))
    own = {step: error for step, error in failed.items() if step.startswith(f"{job.name}__")}
    is_own_run = run.job_name == job.name or not {*all_keys(job)}.isdisjoint(run.asset_selection or ())
    if not own and (failed or not is_own_run):
        return None
    said_of_run = record.event_log_entry.get_dagster_event().message
    error = next(iter(own.values()), None) or _first_line(said_of_run or "the run has failed")
    partition = run.tags.get("dagster/partition")
    pages = job.on_failure.dagster_url if job.on_failure else ""
    return {
        "text": f"docmill: {job.name}{f' {partition}' if partition else ''} has failed: {error}",
        "job": job.name,
        "partition": partition,
        "run_id": run.run_id,
        "run_url": f"{pages}/runs/{run.run_id}" if pages else None,
        "error": error,
        "failed_at": datetime.fromtimestamp(record.timestamp, UTC).isoformat(timespec="seconds"),
    }


def _is_here(context: SensorEvaluationContext, run: DagsterRun) -> bool:
    """Whether the run is of this code location; another one may have a job of the same name."""
    here = context.code_location_origin
    if run.remote_job_origin is None or here is None:
        return run.remote_job_origin is None and here is None
    there = run.remote_job_origin.repository_origin
    return (there.code_location_origin.location_name, there.repository_name) == (
        here.location_name,
        context.repository_name,
    )


def _failed_steps(context: SensorEvaluationContext, run: DagsterRun) -> Iterator[tuple[str, str]]:
    """Steps with the first line of what they said: `event_log.as_failures` sees to it that it quotes no document."""
    for entry in context.instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
        if entry.dagster_event is None or entry.dagster_event.step_key is None:
            continue
        step, data = entry.dagster_event.step_key, entry.dagster_event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        kind = data.error.cls_name if data.error else None
        yield step, _first_line(said or f"{kind or 'an error'} in step {step}, see the run")


def _first_line(text: str) -> str:
    return clip(without_secrets((text.splitlines() or [""])[0]), max_chars=MOST_CHARS)
