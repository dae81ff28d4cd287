"""How a job's assets are called: `documents`, its tasks and `report`, each behind the job's name."""

from __future__ import annotations

from dagster import AssetKey

from docmill.ops.job import Job

DOCUMENTS, REPORT = "documents", "report"


def key_of(job: Job, name: str) -> AssetKey:
    """Key of one of the job's assets: `documents`, the name of a task, or `report`."""
    return AssetKey([job.name, name])


def all_keys(job: Job) -> list[AssetKey]:
    """Of all its assets, in the order of their making."""
    return [key_of(job, name) for name in (DOCUMENTS, *job.tasks, REPORT)]
