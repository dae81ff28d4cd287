"""Which partitions Dagster offers for a job: days or hours."""

from __future__ import annotations

from datetime import timedelta

from dagster import DailyPartitionsDefinition, HourlyPartitionsDefinition, TimeWindowPartitionsDefinition

from docmill.ops.job import DemoCorpus, Job


def time_partitions(job: Job) -> TimeWindowPartitionsDefinition | None:
    """A day or an hour each, named as their folders, from the source's first day to the last that is over.

    Of a generated source, its days. None: unpartitioned.
    """
    source = job.source
    if source.partition_key is None:
        return None
    if isinstance(source.generate, DemoCorpus):
        first, last = min(source.generate.days), max(source.generate.days)
        return DailyPartitionsDefinition(str(first), end_date=str(last + timedelta(days=1)))
    assert source.start_date is not None, "job_files asks for it"
    if source.partition_every == "hour":
        return HourlyPartitionsDefinition(f"{source.start_date}-00", fmt=source.period.format)
    # A day is over when it is where the schedule's clock hangs.
    return DailyPartitionsDefinition(
        str(source.start_date), timezone=job.schedule.timezone if job.schedule else None
    )
