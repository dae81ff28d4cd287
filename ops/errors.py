"""Errors of a job as a whole. What is wrong with one row or one shard never raises here: it is counted.

OpsError
├── JobError     the job's YAML or settings: all problems at once, each with its place
├── NoShards     the partition has no Parquet files
├── NothingToReplay
└── Stopped      asked to end before all was done; what is finished is kept
    └── BudgetSpent
"""

from __future__ import annotations


class OpsError(Exception):
    """Base of what stops a run before or instead of its work."""


class JobError(OpsError):
    """A job that cannot run as written. Carries `job` (file or name) and `problems`, one line each."""

    def __init__(self, job: str, problems: list[str]):
        super().__init__(f"{job}: " + ("; ".join(problems)))
        self.job = job
        self.problems = problems


class NoShards(OpsError):
    """Nothing to do: no `*.parquet` below `folder_uri`. Carries the partitions that do exist."""

    def __init__(self, folder_uri: str, partitions: list[str]):
        there = f"The source has {_some(partitions)}" if partitions else "The source has no partitions either"
        super().__init__(
            f"no *.parquet files below {folder_uri}. {there}. Check `source.uri`, `partition_key` and --partition"
        )
        self.folder_uri = folder_uri
        self.partitions = partitions


class NothingToReplay(OpsError):
    """The partition has no failed requests that could be asked again."""


class Stopped(OpsError):
    """The run was asked to end before all was done. Run it again, and it does the rest. Carries `num_units_left`."""

    def __init__(self, why: str, num_units_left: int):
        super().__init__(
            f"{why}; {num_units_left} units of work are left and all finished answers are kept. Run the same job "
            "again: it does the rest"
        )
        self.num_units_left = num_units_left


class BudgetSpent(Stopped):
    """A limit of the job's `budget` was reached. Raise it before the next run."""


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more, up to {names[-1]}" if len(names) > 5 else shown
