"""Writing shards: a file is there whole, or not at all."""

from __future__ import annotations

import resource
import stat
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data.errors import StorageError
from docmill.data.shards import ShardWriter

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(numbers, pa.int64())], schema=SCHEMA)


@pytest.fixture(autouse=True)
def spool_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files grow before they are put in place; tests look whether anything is left there."""
    folder = tmp_path_factory.mktemp("spool")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_nothing_is_visible_before_commit_and_all_after(tmp_path: Path, spool_folder: Path) -> None:
    uri = str(tmp_path / "out" / "a.parquet")
    with ShardWriter(uri, SCHEMA, max_rows_per_group=2) as writer:
        for number in range(5):
            writer.write(batch(number))
        assert not (tmp_path / "out").exists()
        writer.commit()
    assert pq.read_table(uri).to_pydict() == {"n": [0, 1, 2, 3, 4]}
    assert pq.read_schema(uri) == SCHEMA
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.parquet"]
    assert list(spool_folder.iterdir()) == []


def test_a_commit_replaces_the_file_before(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    for number in (1, 2):
        with ShardWriter(uri, SCHEMA) as writer:
            writer.write(batch(number))
            assert number == 1 or pq.read_table(uri).to_pydict() == {"n": [1]}
            writer.commit()
    assert pq.read_table(uri).to_pydict() == {"n": [2]}


def test_an_error_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path: Path, spool_folder: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    with ShardWriter(uri, SCHEMA) as writer:
        writer.write(batch(1))
        writer.commit()
    with pytest.raises(ZeroDivisionError), ShardWriter(uri, SCHEMA, max_rows_per_group=1) as writer:
        writer.write(batch(2))
        raise ZeroDivisionError
    assert pq.read_table(uri).to_pydict() == {"n": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert list(spool_folder.iterdir()) == []


def test_a_commit_that_the_store_refuses_leaves_nothing(tmp_path: Path, spool_folder: Path) -> None:
    (tmp_path / "a.parquet" / "inner").mkdir(parents=True)
    with pytest.raises(StorageError), ShardWriter(str(tmp_path / "a.parquet"), SCHEMA) as writer:
        writer.write(batch(1))
        writer.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    assert list(spool_folder.iterdir()) == []


def test_a_file_without_rows_has_the_schema(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    with ShardWriter(uri, SCHEMA) as writer:
        writer.commit()
    assert pq.read_schema(uri) == SCHEMA
    assert pq.read_table(uri).num_rows == writer.num_rows == 0


def test_row_groups_hold_the_rows_asked_for(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.parquet")
    with ShardWriter(uri, SCHEMA, max_rows_per_group=4) as writer:
        for number in range(10):
            writer.write(batch(number))
        writer.commit()
    metadata = pq.read_metadata(uri)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 4, 2]


def test_the_file_may_be_read_by_those_who_may_see_the_folder(tmp_path: Path) -> None:
    uri = tmp_path / "a.parquet"
    with ShardWriter(str(uri), SCHEMA) as writer:
        writer.commit()
    assert stat.S_IMODE(uri.stat().st_mode) == 0o644


def test_discarding_twice_or_after_commit_does_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path / "a.parquet"), SCHEMA)
    writer.write(batch(1))
    writer.commit()
    writer.discard()
    writer.discard()
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 1


def test_hundreds_of_small_files_under_way_need_no_file_handles(tmp_path: Path) -> None:
    """A job over many small shards has a file a shard and task open, and 1024 handles is a common limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        writers = [ShardWriter(str(tmp_path / f"{number}.parquet"), SCHEMA) for number in range(300)]
        for number, writer in enumerate(writers):
            writer.write(batch(number))
        for writer in writers:
            writer.commit()
            writer.discard()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [pq.read_table(writer.uri).to_pydict() for writer in writers] == [{"n": [n]} for n in range(300)]
