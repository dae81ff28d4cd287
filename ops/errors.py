"""Errors of a job as a whole. What is wrong with one row or one shard never raises here: it is counted.

OpsError
├── JobError     the job's YAML or settings: all problems at once, each with its place
├── NoShards     the partition has no Parquet files
├── NothingToReplay
├── NotWorthIt   no compressed model stays within the loss that the job allows
└── Stopped      asked to end before all was done; what is finished is kept
    └── BudgetSpent
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docmill.ops.compression.report import CompressionReport, Trial


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


class NotWorthIt(OpsError):
    """Every compressed model lost more than `max_drop`: none is published. Carries the `report` of what was tried."""

    def __init__(self, job: str, report: CompressionReport):
        tried = "; ".join(f"{trial.setting}: {_loss(trial, report.max_drop)}" for trial in report.trials)
        super().__init__(
            f"{job}: no compressed model is published. On {report.held_out_documents} held-out documents: {tried}. "
            f"Choose another `recipe`, a larger `sample` (the bound gets tighter) or a larger `max_drop` "
            f"(now {report.max_drop:.1%})"
            + ("; `keep_texts` keeps more of the vocabulary" if report.recipe == "trim" else "")
        )
        self.report = report


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


def _loss(trial: Trial, max_drop: float) -> str:
    if trial.trouble is not None:
        return trial.trouble
    worst = max(trial.tasks, key=lambda name: trial.tasks[name].most_drop)
    figures = trial.tasks[worst]
    what = f"{worst} loses {figures.drop:.2%}, at most {figures.most_drop:.2%} ({figures.metric})"
    return f"{what}, which is within bounds but not the recipe" if figures.most_drop <= max_drop else what


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more, up to {names[-1]}" if len(names) > 5 else shown
