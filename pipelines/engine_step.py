"""What all steps that open an engine have in common: their pool, their retries, and which partition they are about."""

# No `from __future__ import annotations` here: see `assets`.

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import (
    AssetExecutionContext,
    Backoff,
    DagsterExecutionInterruptedError,
    Failure,
    Jitter,
    RetryPolicy,
)

from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.pipelines.exit_codes import RESUME

ENGINE_POOL = (
    "docmill_engine"  # as many runs at once as there are engines to run them: its limit is in dagster.yaml
)

# For what a later attempt may find mended: a store that did not answer, an engine that died.
RETRY = RetryPolicy(max_retries=2, delay=30, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)


def partition_of(job: Job, context: AssetExecutionContext) -> Partition:
    """That of the run. Raises `Failure` where the job has days and the run has none."""
    if job.source.partition_key is not None and not context.has_partition_key:
        # Dagster's pages offer to execute a check alone, and a check has no day there.
        period = job.source.period.name
        raise Failure(
            f"a check by itself has no {period}: materialise the {period}, and all its checks are evaluated; what is "
            "up to date costs nothing",
            allow_retries=False,
        )
    return job.partition(context.partition_key if context.has_partition_key else None)


@contextmanager
def no_retry_when_interrupted() -> Iterator[None]:
    """Dagster would follow the retry policy, and a run that somebody terminated would start again by itself."""
    try:
        yield
    except DagsterExecutionInterruptedError:
        raise Failure(f"interrupted. {RESUME}", allow_retries=False) from None
