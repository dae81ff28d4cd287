"""The demo corpus as a source in storage."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.data.demo import DEMO_SCHEMA, demo_documents, hostile_documents
from docmill.data.demo.days import HOSTILE_SHARD, write_demo_days
from docmill.data.shards import ShardReader

DAYS = [date(2026, 11, 19), date(2026, 11, 20)]


def test_each_day_has_its_own_documents_in_as_many_shards_as_asked(tmp_path: Path) -> None:
    write_demo_days(str(tmp_path), seed=3, days=DAYS, documents_per_day=10, shards_per_day=3)
    ids = []
    for day in DAYS:
        shards = storage.list_shards(f"{tmp_path}/dt={day}")
        assert [shard.name for shard in shards] == [f"part-{number:04}.parquet" for number in range(3)]
        tables = [pq.read_table(shard.uri, partitioning=None) for shard in shards]
        assert [table.num_rows for table in tables] == [3, 3, 4]
        assert all(table.schema == DEMO_SCHEMA for table in tables)
        ids += [id_ for table in tables for id_ in table.column("doc_id").to_pylist()]
    assert ids == [document.doc_id for document in demo_documents(seed=3, num_documents=20)]


def test_the_same_arguments_give_the_same_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_demo_days(str(tmp_path / name), seed=3, days=DAYS[:1], documents_per_day=5, duplicate_share=0.3)
    first, second = (pq.read_table(next((tmp_path / name).rglob("*.parquet"))) for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("documents_per_day", [0, 1])
def test_fewer_documents_than_shards_give_empty_shards(tmp_path: Path, documents_per_day: int) -> None:
    write_demo_days(
        str(tmp_path), seed=3, days=DAYS[:1], documents_per_day=documents_per_day, shards_per_day=2
    )
    shards = storage.list_shards(f"{tmp_path}/dt={DAYS[0]}")
    assert [pq.read_metadata(shard.uri).num_rows for shard in shards] == [0, documents_per_day]


def test_hostile_rows_stand_in_a_shard_of_the_first_day_byte_for_byte(tmp_path: Path) -> None:
    write_demo_days(str(tmp_path), seed=3, days=DAYS, documents_per_day=1, hostile=True)
    assert [shard.name for shard in storage.list_shards(f"{tmp_path}/dt={DAYS[1]}")] == ["part-0000.parquet"]
    shard = storage.list_shards(f"{tmp_path}/dt={DAYS[0]}")[0]
    assert shard.name == HOSTILE_SHARD
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
        read = [document for batch in reader for document in batch.documents]
    expected = list(hostile_documents(3))
    assert [document.doc_id for document in read] == [row.doc_id for row in expected]
    assert [document.text for document in read] == [
        None if row.text is None else row.text.decode("utf-8", errors="replace") for row in expected
    ]
