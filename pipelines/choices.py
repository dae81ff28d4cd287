"""What `--tasks`, `--partition`, `--from` and `--to` mean for a job."""

from __future__ import annotations

import contextlib
from datetime import date

from docmill.data.finished import is_within
from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.ops.partitions import list_partitions
from docmill.ops.periods import DAY
from docmill.pipelines.exit_codes import WrongUsage
from docmill.pipelines.job_problems import did_you_mean


def choose_tasks(job: Job, tasks: str | None) -> list[str] | None:
    """The task names of `--tasks a,b`; None for all. Raises `WrongUsage` for a name that the job does not have."""
    if tasks is None:
        return None
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    unknown = [name for name in names if name not in job.tasks]
    if unknown or not names:
        problems = [
            f"--tasks: there is no task {name!r}; {did_you_mean(name, job.tasks)}" for name in unknown
        ]
        raise WrongUsage("\n".join(problems) or f"--tasks names no task. Allowed: {', '.join(job.tasks)}")
    return names


def choose_partition(job: Job, value: str | None) -> Partition:
    """The partition of `--partition`. Raises `WrongUsage`, with the days there are, where it is missing or no day."""
    try:
        return job.partition(value)
    except ValueError as error:
        days = list_partitions(job)
        there = f"; the source has {', '.join(days[-5:])}" if days else ""
        raise WrongUsage(f"{error}{there}") from error


def choose_days(
    job: Job, partition_value: str | None, first: str | None, last: str | None
) -> tuple[str | None, str | None]:
    """The first and last day or hour of `--partition`, or of `--from` and `--to`; None: no limit on that side.

    A last day counts with all its hours. Raises `WrongUsage` for what is neither, for a last one before the first, and
    for both kinds of option at once.
    """
    if partition_value is not None:
        if first is not None or last is not None:
            one = job.source.period.name
            raise WrongUsage(f"--partition names one {one}, --from and --to several: leave one of them out")
        value = choose_partition(job, partition_value).value
        return value, value
    if (first is not None or last is not None) and job.source.partition_key is None:
        raise WrongUsage(
            f"job {job.name!r} is not partitioned (source.partition_key is null); leave --from and --to out"
        )
    first, last = _day(job, "--from", first), _day(job, "--to", last)
    if first is not None and last is not None and not is_within(first, None, last):
        raise WrongUsage(f"--from {first} is after --to {last}; turn them round")
    return first, last


def _day(job: Job, option: str, value: str | None) -> str | None:
    if value is None:
        return None
    period, given = job.source.period, value.removeprefix(f"{job.source.partition_key}=")
    with contextlib.suppress(ValueError):
        return str(date.fromisoformat(given))
    with contextlib.suppress(ValueError):
        return period.value_at(period.start_of(given))
    takes = f"a day such as {DAY.example}" + (
        f" or an hour such as {period.example}" if period != DAY else ""
    )
    raise WrongUsage(f"{option} takes {takes}, not {value!r}")
