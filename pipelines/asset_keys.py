"""How a job's assets are called: `documents`, its tasks, `report`, ..., each behind the job's name."""

from __future__ import annotations

from dagster import AssetKey

from docmill.ops.job import Job

DOCUMENTS, REPORT, COMPRESSED_MODEL = "documents", "report", "compressed_model"


def key_of(job: Job, name: str) -> AssetKey:
    """Key of one of the job's assets: `documents`, the name of a task, or `report`."""
    return AssetKey([job.name, name])


def all_keys(job: Job) -> list[AssetKey]:
    """Of all its assets, in the order of their making."""
    model = [COMPRESSED_MODEL] if job.model.compress else []
    return [key_of(job, name) for name in (DOCUMENTS, *model, *job.tasks, REPORT)]
