"""What `--tasks` and `--partition` mean for a job."""

from __future__ import annotations

from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.ops.partitions import list_partitions
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
