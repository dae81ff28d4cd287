"""All that Dagster knows of docmill: the assets and the run of every job file, and what starts it.

Only puts together what the other files make. Loading takes seconds and needs neither torch nor vLLM; the jobs are
those that `docmill jobs` lists.
"""

from __future__ import annotations

from dagster import Definitions

from docmill.ops.errors import JobError
from docmill.pipelines.assets import job_assets, job_run
from docmill.pipelines.broken_jobs import broken_job_asset
from docmill.pipelines.job_files import load_all_jobs
from docmill.pipelines.timetable import arrival_sensor, job_schedule


def docmill_definitions() -> Definitions:
    """Definitions of all job files there are now."""
    merged = Definitions()
    for file, job in load_all_jobs().items():
        if isinstance(job, JobError):
            merged = Definitions.merge(merged, Definitions(assets=[broken_job_asset(file, job)]))
        else:
            run = job_run(job)
            started = Definitions(
                assets=job_assets(job),
                jobs=[run],
                schedules=[found for found in [job_schedule(job, run)] if found],
                sensors=[found for found in [arrival_sensor(job, run)] if found],
            )
            merged = Definitions.merge(merged, started)
    return merged


defs = docmill_definitions()
