"""Which days Dagster offers for a job."""

from __future__ import annotations

from datetime import timedelta

from dagster import DailyPartitionsDefinition

from docmill.ops.job import DemoCorpus, Job


def day_partitions(job: Job) -> DailyPartitionsDefinition | None:
    """A day each from the source's first to yesterday; of a generated source, its days. None: unpartitioned."""
    source = job.source
    if source.partition_key is None:
        return None
    if isinstance(source.generate, DemoCorpus):
        first, last = min(source.generate.days), max(source.generate.days)
        return DailyPartitionsDefinition(str(first), end_date=str(last + timedelta(days=1)))
    assert source.start_date is not None, "job_files asks for it"
    # A day is over when it is where the schedule's clock hangs.
    return DailyPartitionsDefinition(
        str(source.start_date), timezone=job.schedule.timezone if job.schedule else None
    )
