"""A real run over a small sample of a partition's own documents: it teaches the job's profile what a run would."""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress

import pyarrow as pa

from docmill.data import storage
from docmill.data.errors import SHARD_ERRORS
from docmill.data.layout import Layout, join
from docmill.data.records import Partition, Shard
from docmill.data.shards import ShardReader, ShardWriter
from docmill.engine.pool.config import PoolConfig
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine
from docmill.ops.job import Budget, Job, Output, Reuse, Source
from docmill.ops.partition_job import model_fingerprint_of, run_partition
from docmill.ops.partitions import find_shards
from docmill.ops.profile import engine_key, learn, read_profile
from docmill.ops.progress import OnProgress, ignore_progress
from docmill.ops.report import Report

PROBE_DOCUMENTS = 300


def is_measured(job: Job) -> bool:
    """Whether a run or a probe has shown how fast the job's engine is."""
    return engine_key(job, model_fingerprint_of(job)) in read_profile(job).engines


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
    storage.check_reachable(job.source.uri)
    shards = find_shards(job, partition)
    # In the job's own store: workers of a pool are on other machines.
    folder = Layout.probe(job.output.uri, uuid.uuid4().hex)
    source = Source(
        uri=join(folder, "documents"),
        id_column=job.source.id_column,
        text_column=job.source.text_column,
        partition_key=None,
    )
    small = job.model_copy(
        update={
            "source": source,
            "output": Output(uri=join(folder, "answers")),
            "pool": _one_worker(job.pool),
            "reuse": Reuse(runs=0),
            "budget": Budget(),
        }
    )
    try:
        _write_sample(job, shards, join(source.uri, "sample.parquet"), num_documents)
        report = run_partition(
            small,
            Partition(),
            tasks=tasks,
            engine=engine,
            tokenizer=tokenizer,
            on_progress=on_progress,
            stop=stop,
        )
        learned = read_profile(small).lengths
    finally:
        storage.delete_folder(folder)
    lengths = {
        name: (learned[key].estimated, learned[key].written)
        for name in report.tasks
        if (key := job.settings_hash(name)) in learned
    }
    learn(job, report, lengths)
    return report


def _one_worker(pool: PoolConfig) -> PoolConfig:
    """The same share of a machine for one worker alone."""
    if pool.kind == "inline":
        return pool
    cpus = pool.cpus_per_worker
    if cpus is None and pool.address is None and "RAY_ADDRESS" not in os.environ:
        cpus = max(1, (os.cpu_count() or 1) // (pool.workers or 1))
    return pool.model_copy(update={"workers": 1, "cpus_per_worker": cpus})


def _write_sample(job: Job, shards: list[Shard], uri: str, num_documents: int) -> None:
    """Texts of every usable shard, evenly; ids are numbers, so that two that are equal do not matter."""
    source = job.source
    total = 0
    for shard in shards:
        with (
            suppress(*SHARD_ERRORS),
            ShardReader(
                shard, id_column=source.id_column, text_column=source.text_column, carry=[]
            ) as reader,
        ):
            total += reader.num_rows
    step = max(1, -(-total // num_documents))
    schema = pa.schema([pa.field(source.id_column, pa.string()), pa.field(source.text_column, pa.string())])
    row = 0
    with ShardWriter(uri, schema) as writer:
        for shard in shards:
            with (
                suppress(*SHARD_ERRORS),
                ShardReader(
                    shard, id_column=source.id_column, text_column=source.text_column, carry=[]
                ) as reader,
            ):
                for batch in reader:
                    texts = [
                        document.text for document in batch.documents if (row + document.row) % step == 0
                    ]
                    ids = [f"{shard.name}-{batch.first_row}-{number}" for number in range(len(texts))]
                    columns = [pa.array(ids, pa.string()), pa.array(texts, pa.string())]
                    writer.write(pa.RecordBatch.from_arrays(columns, schema=schema))
                row += reader.num_rows
        writer.commit()
