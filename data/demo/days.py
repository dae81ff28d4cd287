"""Lay the demo corpus out in storage as a source: a folder a day, some shards in each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyarrow as pa

from docmill.data.demo.batches import DEMO_SCHEMA, demo_batches
from docmill.data.demo.hostile import hostile_documents
from docmill.data.layout import join
from docmill.data.shards import ShardWriter

HOSTILE_SHARD = "hostile.parquet"


def write_demo_days(
    source_uri: str,
    *,
    seed: int,
    days: Sequence[date],
    documents_per_day: int,
    shards_per_day: int = 1,
    duplicate_share: float = 0.0,
    hostile: bool = False,
) -> None:
    """Write `{source_uri}/dt={day}/part-0000.parquet`, ...: the same documents for the same arguments.

    Memory stays at one batch whatever the size. `hostile` adds one more shard to the first day, with the bad rows.
    """
    for day_number, day in enumerate(days):
        first = day_number * documents_per_day
        for shard_number in range(shards_per_day):
            start = first + documents_per_day * shard_number // shards_per_day
            end = first + documents_per_day * (shard_number + 1) // shards_per_day
            batches = demo_batches(
                seed=seed, num_documents=end - start, start=start, duplicate_share=duplicate_share
            )
            with ShardWriter(_shard_uri(source_uri, day, shard_number), DEMO_SCHEMA) as writer:
                for batch in batches:
                    writer.write(batch)
                writer.commit()
    if hostile:
        _write_hostile(_hostile_uri(source_uri, days), seed)


def demo_shard_uris(
    source_uri: str, *, days: Sequence[date], shards_per_day: int = 1, hostile: bool = False
) -> list[str]:
    """The files that `write_demo_days` writes for these arguments."""
    uris = [_shard_uri(source_uri, day, number) for day in days for number in range(shards_per_day)]
    return [*uris, _hostile_uri(source_uri, days)] if hostile else uris


def _shard_uri(source_uri: str, day: date, number: int) -> str:
    return join(source_uri, f"dt={day}", f"part-{number:04}.parquet")


def _hostile_uri(source_uri: str, days: Sequence[date]) -> str:
    return join(source_uri, f"dt={days[0]}", HOSTILE_SHARD)


def _write_hostile(uri: str, seed: int) -> None:
    """The bad rows. Their text is not always UTF-8, so the column is put together from bytes."""
    rows = list(hostile_documents(seed))
    schema = pa.schema([field.with_nullable(True) for field in DEMO_SCHEMA])
    text = pa.Array.from_buffers(
        pa.string(), len(rows), pa.array([row.text for row in rows], pa.binary()).buffers()
    )
    nothing = pa.nulls(len(rows), pa.string())
    columns = dict.fromkeys(schema.names, nothing) | {
        "doc_id": pa.array([row.doc_id for row in rows]),
        "text": text,
    }
    with ShardWriter(uri, schema) as writer:
        writer.write(pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema))
        writer.commit()
