"""Answers and dead letters as Polars frames: what is committed, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

import docmill.data
from docmill.data import scan_answers, scan_dead_letters, storage
from docmill.data.dead_letters import DeadLetter, encode_dead_letters
from docmill.data.errors import NoAnswers
from docmill.data.layout import Layout
from docmill.data.manifest import AnswerFile, Manifest, TaskManifest, replace_manifest
from docmill.data.records import Partition

EARLIER, DAY = "2026-11-19", "2026-11-20"


def put_parquet(uri: str, columns: dict[str, Any]) -> None:
    sink = io.BytesIO()
    pl.DataFrame(columns).write_parquet(sink)
    storage.put_bytes(uri, sink.getvalue())


def commit(output: str, partition: Partition, task: str, files: Iterable[str]) -> None:
    manifest = Manifest(job="test", partition=str(partition))
    manifest.tasks[task] = TaskManifest(
        settings="s",
        model_fingerprint="m",
        finished_at=datetime(2026, 11, 20, tzinfo=UTC),
        files=[AnswerFile(name=name, rows=1, shard_version="1") for name in files],
    )
    assert replace_manifest(Layout(output, partition).manifest, manifest, version=None)


def write(output: str, day: str | None, name: str, *, committed: bool = True, **columns: Any) -> None:
    """One answer file of the task `topics`."""
    partition = Partition("dt", day) if day else Partition()
    put_parquet(Layout(output, partition).answers("topics", name), columns)
    if committed:
        commit(output, partition, "topics", [name])


def test_files_that_no_manifest_names_are_not_read(tmp_path: Path) -> None:
    output = str(tmp_path)
    write(output, EARLIER, "a.parquet", doc_id=["1"])
    write(output, DAY, "a.parquet", committed=False, doc_id=["2"])  # a run that has not ended
    write(output, EARLIER, "left.parquet", committed=False, doc_id=["3"])  # of a shard that is gone
    found = scan_answers(output, "topics").collect()
    assert found.to_dicts() == [{"doc_id": "1", "dt": date(2026, 11, 19)}]


def test_days_are_chosen_and_stand_in_a_column_of_their_own(tmp_path: Path) -> None:
    output = str(tmp_path)
    for number, day in enumerate((EARLIER, DAY)):
        write(output, day, "deep/a.parquet", doc_id=[str(number)])
    both = scan_answers(output, "topics").collect()
    assert both["dt"].to_list() == [date(2026, 11, 19), date(2026, 11, 20)]
    only = scan_answers(output, "topics", first=date(2026, 11, 20)).collect()
    assert only["doc_id"].to_list() == ["1"]
    assert scan_answers(output, "topics", last=EARLIER).collect()["doc_id"].to_list() == ["0"]


def test_a_column_that_came_later_is_null_before(tmp_path: Path) -> None:
    output = str(tmp_path)
    write(output, EARLIER, "a.parquet", doc_id=["1"])
    write(output, DAY, "a.parquet", doc_id=["2"], near_duplicate_of=["1"])
    assert scan_answers(output, "topics").collect()["near_duplicate_of"].to_list() == [None, "1"]


def test_partitions_that_are_no_days_are_text(tmp_path: Path) -> None:
    write(str(tmp_path), "north", "a.parquet", doc_id=["1"])
    assert scan_answers(str(tmp_path), "topics").collect()["dt"].to_list() == ["north"]


def test_an_output_without_partitions_has_no_column_for_them(tmp_path: Path) -> None:
    write(str(tmp_path), None, "a.parquet", doc_id=["1"])
    assert scan_answers(str(tmp_path), "topics").collect().columns == ["doc_id"]


def test_a_folder_of_the_output_that_looks_like_a_partition_is_none(tmp_path: Path) -> None:
    write(f"{tmp_path}/run=7", DAY, "a.parquet", doc_id=["1"])
    assert scan_answers(f"{tmp_path}/run=7", "topics").collect().columns == ["doc_id", "dt"]


def test_a_task_without_answers_says_which_have_some(tmp_path: Path) -> None:
    write(str(tmp_path), DAY, "a.parquet", doc_id=["1"])
    with pytest.raises(NoAnswers, match="no finished answers of task 'topic'; there are those of topics"):
        scan_answers(str(tmp_path), "topic")
    with pytest.raises(NoAnswers, match="no run of these partitions is finished"):
        scan_answers(str(tmp_path), "topics", last=EARLIER)


def test_answers_in_an_object_store_are_read_by_polars_itself(
    moto_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    # A bucket of its own: Polars keeps its connection to a bucket, and other tests have theirs on another server.
    fsspec.filesystem("s3").mkdir("scan-answers")
    output = "s3://scan-answers/out"
    write(output, DAY, "a.parquet", doc_id=["1", "2"])
    assert scan_answers(output, "topics").select(pl.len()).collect().item() == 2


def letter(row: int) -> DeadLetter:
    return DeadLetter("topics", "a.parquet", row, f"id-{row}", "key", [1, 2], "{}", "rejected", "why", 1,
                      datetime(2026, 11, 20, tzinfo=UTC))  # fmt: skip


def test_dead_letters_of_finished_days_stand_together(tmp_path: Path) -> None:
    output = str(tmp_path)
    for number, day in enumerate((EARLIER, DAY)):
        write(output, day, "a.parquet", doc_id=["1"])
        letters = encode_dead_letters([letter(number)])
        storage.put_bytes(Layout(output, Partition("dt", day)).dead_letters, letters)
    unfinished = Layout(output, Partition("dt", "2026-11-21"))
    storage.put_bytes(unfinished.dead_letters, encode_dead_letters([letter(9)]))
    found = scan_dead_letters(output).select("dt", "doc_id", "reason").collect()
    assert found.rows() == [
        (date(2026, 11, 19), "id-0", "rejected"),
        (date(2026, 11, 20), "id-1", "rejected"),
    ]
    assert scan_dead_letters(output, first=DAY).collect()["doc_id"].to_list() == ["id-1"]


def test_no_dead_letters_are_an_empty_frame_with_its_columns(tmp_path: Path) -> None:
    write(str(tmp_path), DAY, "a.parquet", doc_id=["1"])
    found = scan_dead_letters(str(tmp_path)).collect()
    assert found.is_empty()
    assert {"task", "doc_id", "reason", "message"} <= set(found.columns)


def test_the_package_brings_polars_only_when_it_is_asked_for() -> None:
    program = "import docmill.data, sys; print('polars' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
    assert docmill.data.__all__ == ["scan_answers", "scan_dead_letters"]
    with pytest.raises(AttributeError, match="has no attribute 'scan'"):
        _ = docmill.data.scan  # type: ignore[attr-defined]
