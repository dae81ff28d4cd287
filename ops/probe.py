"""A real run over a small sample of a partition's own documents: it teaches the job's profile what a run would."""

from __future__ import annotations

import threading

from docmill.data.records import Partition
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine
from docmill.ops.job import Job
from docmill.ops.partition_job import model_fingerprint_of, run_partition
from docmill.ops.profile import find_engine, learn, read_profile
from docmill.ops.progress import OnProgress, ignore_progress
from docmill.ops.report import Report
from docmill.ops.sample import sampled
from docmill.ops.tuned_engines import copy_tuned, possible_settings

PROBE_DOCUMENTS = 300


def is_measured(job: Job) -> bool:
    """Whether a run or a probe has shown how fast the job's engine is."""
    model_fingerprint = model_fingerprint_of(job)
    tuned = possible_settings(job, model_fingerprint)
    return find_engine(read_profile(job), job, model_fingerprint, tuned) is not None


def probe(
    job: Job,
    partition: Partition,
    *,
    tasks: list[str] | None = None,
    num_documents: int = PROBE_DOCUMENTS,
    engine: Engine | None = None,
    tokenizer: ModelTokenizer | None = None,
    on_progress: OnProgress = ignore_progress,
    stop: threading.Event | None = None,
) -> Report:
    """Run the tasks over so many of the partition's documents, evenly taken, and teach the job's profile what it took.

    Its answers are thrown away. An engine that is given stays open. Raises what `run_partition` raises.
    """
    with sampled(job, partition, num_documents=num_documents) as sample:
        copy_tuned(job.output.uri, sample.job.output.uri)
        report = run_partition(
            sample.job,
            Partition(),
            tasks=tasks,
            engine=engine,
            tokenizer=tokenizer,
            on_progress=on_progress,
            stop=stop,
        )
        lengths = sample.lengths(report)
    learn(job, report, lengths)
    return report
