"""Some of a partition's own documents as a small job in a throw-away folder, for what is measured before a run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa

from docmill.data import storage
from docmill.data.errors import SHARD_ERRORS
from docmill.data.layout import Layout, join
from docmill.data.records import Partition, Shard
from docmill.data.shards import ShardReader, ShardWriter
from docmill.engine.pool.config import PoolConfig
from docmill.ops.job import Budget, Job, Output, Reuse, Source
from docmill.ops.partitions import find_shards
from docmill.ops.profile import read_profile
from docmill.ops.report import Report


@dataclass(frozen=True, slots=True)
class Sample:
    """`job` is the job over the sample alone, unpartitioned, with one worker, and an output of its own."""

    job: Job
    num_documents: int
    num_documents_total: int  # of the partition

    def lengths(self, report: Report) -> dict[str, tuple[float, float]]:
        """What a run of `job` has learned about its answers, see `profile.learn`."""
        learned = read_profile(self.job).lengths
        return {
            name: (learned[key].estimated, learned[key].written)
            for name in report.tasks
            if (key := self.job.settings_hash(name)) in learned
        }


def any_text(text: str) -> bool:  # noqa: ARG001
    """Take all of them."""
    return True


@contextmanager
def sampled(
    job: Job,
    partition: Partition,
    *,
    num_documents: int,
    carry: Sequence[str] = (),
    takes: Callable[[str], bool] = any_text,
) -> Iterator[Sample]:
    """So many of the partition's documents, evenly taken; the folder is gone afterwards.

    Of those evenly taken only the texts that `takes` wants. Columns to `carry` along are written as text. Raises
    `NoShards` or `StorageError`.
    """
    storage.check_reachable(job.source.uri)
    shards = find_shards(job, partition)
    # In the job's own store: workers of a pool are on other machines.
    folder = Layout.probe(job.output.uri, uuid.uuid4().hex)
    source = Source(
        uri=join(folder, "documents"),
        id_column=job.source.id_column,
        text_column=job.source.text_column,
        carry=list(carry),
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
        numbers = _write_sample(source, shards, join(source.uri, "sample.parquet"), num_documents, takes)
        yield Sample(small, *numbers)
    finally:
        storage.delete_folder(folder)


def _one_worker(pool: PoolConfig) -> PoolConfig:
    """The same share of a machine for one worker alone."""
    if pool.kind == "inline":
        return pool
    cpus = pool.cpus_per_worker
    if cpus is None and pool.address is None and "RAY_ADDRESS" not in os.environ:
        cpus = max(1, (os.cpu_count() or 1) // (pool.workers or 1))
    return pool.model_copy(update={"workers": 1, "cpus_per_worker": cpus})


def _write_sample(
    source: Source, shards: list[Shard], uri: str, num_documents: int, takes: Callable[[str], bool]
) -> tuple[int, int]:
    """Texts of every usable shard, evenly; ids are numbers, so that two that are equal do not matter.

    Returns how many there are in the sample, and in the shards.
    """
    total = 0
    for shard in shards:
        with suppress(*SHARD_ERRORS), open_shard(source, shard) as reader:
            total += reader.num_rows
    step = max(1, -(-total // num_documents))
    names = [source.id_column, source.text_column, *source.carry]
    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    row = taken = 0
    with ShardWriter(uri, schema) as writer:
        for shard in shards:
            with suppress(*SHARD_ERRORS), open_shard(source, shard) as reader:
                for batch in reader:
                    chosen = [
                        (offset, document.text)
                        for offset, document in enumerate(batch.documents)
                        if (row + document.row) % step == 0 and takes(document.text or "")
                    ]
                    rows = pa.array([offset for offset, _ in chosen], pa.int64())
                    ids = [f"{shard.name}-{batch.first_row}-{number}" for number in range(len(chosen))]
                    taken += len(chosen)
                    columns = [
                        pa.array(ids, pa.string()),
                        pa.array([text for _, text in chosen], pa.string()),
                    ]
                    columns += [
                        batch.carried.column(name).take(rows).cast(pa.string()) for name in source.carry
                    ]
                    writer.write(pa.RecordBatch.from_arrays(columns, schema=schema))
                row += reader.num_rows
        writer.commit()
    return taken, total


def open_shard(source: Source, shard: Shard) -> ShardReader:
    """With the columns that `source` names. Raises one of `SHARD_ERRORS`."""
    return ShardReader(
        shard, id_column=source.id_column, text_column=source.text_column, carry=list(source.carry)
    )
