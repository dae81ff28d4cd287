"""The checks of `ops.checks` as Dagster's asset checks: of each task's answers, and of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dagster import AssetCheckKey, AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, AssetKey

from docmill.data.records import Partition
from docmill.ops.checks import KINDS, Check, check_report, check_task, report_check_names, task_check_names
from docmill.ops.job import Job
from docmill.ops.report import Report


def check_specs(job: Job, tasks: dict[str, AssetKey], report: AssetKey) -> list[AssetCheckSpec]:
    """What Dagster shows before anything has run. What blocks keeps back what is downstream in the same run."""
    named = [(key, name) for task, key in tasks.items() for name in task_check_names(job, task)]
    named += [(report, name) for name in report_check_names(job)]
    return [
        AssetCheckSpec(name, asset=key, description=KINDS[name].description, blocking=KINDS[name].is_blocking)
        for key, name in named
    ]


def check_results(
    job: Job,
    partition: Partition,
    figures: Report,
    tasks: dict[str, AssetKey],
    selected: Iterable[AssetCheckKey],
) -> Iterator[AssetCheckResult]:
    """Of the selected checks, after the run whose report `figures` is."""
    task_of = {key: task for task, key in tasks.items()}
    for key in selected:
        task = task_of.get(key.asset_key)
        if task is None:
            check = check_report(key.name, job, figures)
        elif task in figures.tasks:
            check = check_task(key.name, job, partition, figures, task)
        else:
            check = Check(True, "the last run did not ask this task")
        yield AssetCheckResult(
            asset_key=key.asset_key,
            check_name=key.name,
            passed=check.passed,
            severity=AssetCheckSeverity.ERROR if KINDS[key.name].is_error else AssetCheckSeverity.WARN,
            description=check.words,
            metadata=dict(check.figures),
        )
