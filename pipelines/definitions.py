"""All that Dagster knows of docmill: every job file as a `DocumentJob`.

Only puts together what the other files make. Loading takes seconds and needs neither torch nor vLLM; the jobs are
those that `docmill jobs` lists.
"""

from __future__ import annotations

from dagster import Definitions

from docmill.ops.errors import JobError
from docmill.pipelines.broken_jobs import broken_job_asset
from docmill.pipelines.document_job import DocumentJob
from docmill.pipelines.job_files import load_all_jobs


def docmill_definitions() -> Definitions:
    """Definitions of all job files there are now."""
    merged = Definitions()
    for file, job in load_all_jobs().items():
        if isinstance(job, JobError):
            merged = Definitions.merge(merged, Definitions(assets=[broken_job_asset(file, job)]))
        else:
            merged = Definitions.merge(merged, DocumentJob(job).definitions())
    return merged


defs = docmill_definitions()
