"""What each task of each day did, took and cost: a row for each, for `docmill report` and for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING

from docmill.ops.history import read_history
from docmill.ops.report import Report, work_shares

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class TaskDay:
    """One task in the last run of one partition. Tokens and requests as in the report, spared ones included."""

    job: str
    partition: str  # its value alone, as 2026-11-20; `all` where there is no partition key
    task: str
    kind: str
    finished_at: datetime
    documents: int
    ok: int
    failed: int
    skipped: int
    requests: int
    spared_requests: int  # of them, answered by equal or similar ones, or by earlier runs
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    truncated_answers: int
    engine_seconds: float  # its part of what is paid, by the engine work that it caused
    usd: float | None  # None where the job has no price for the device
    usd_expected: float | None  # by `docmill plan`, where it was asked before the run


def task_days(reports: Iterable[Report]) -> list[TaskDay]:
    """The rows of these reports."""
    rows = []
    for report in reports:
        shares = work_shares(report.tasks)
        for name, task in report.tasks.items():
            expected = report.estimate.tasks.get(name) if report.estimate is not None else None
            rows.append(
                TaskDay(
                    job=report.job,
                    partition=report.partition.rpartition("=")[2],
                    task=name,
                    kind=task.kind,
                    finished_at=report.finished_at,
                    documents=task.counts.rows,
                    ok=task.counts.ok,
                    failed=task.counts.failed,
                    skipped=task.counts.skipped,
                    requests=task.requests,
                    spared_requests=(
                        task.duplicate_requests + task.reused_requests + task.near_duplicate_requests
                    ),
                    prompt_tokens=task.tokens.prompt,
                    cached_tokens=task.tokens.cached,
                    output_tokens=task.tokens.output,
                    truncated_answers=task.truncated_answers,
                    engine_seconds=report.engine_seconds * shares[name],
                    usd=task.usd,
                    usd_expected=expected.usd.expected if expected is not None and expected.usd else None,
                )
            )
    return rows


def read_daily_figures(output_uri: str, *, first: str | None = None, last: str | None = None) -> pl.DataFrame:
    """The rows of all finished partitions of a job's `output.uri`, or of the days from `first` to `last`."""
    return as_frame(task_days(read_history(output_uri, first=first, last=last).reports.values()))


def as_frame(rows: list[TaskDay]) -> pl.DataFrame:
    """A column for each field of `TaskDay`."""
    import polars as pl

    types: dict[str, pl.DataType | type[pl.DataType]] = {
        "str": pl.String,
        "int": pl.Int64,
        "float": pl.Float64,
        "float | None": pl.Float64,
        "datetime": pl.Datetime("us", "UTC"),
    }
    return pl.DataFrame(rows, schema={field.name: types[str(field.type)] for field in fields(TaskDay)})
