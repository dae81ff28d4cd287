"""The manifest: read back as written, absent where there is none that this version understands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from docmill.data import storage
from docmill.data.manifest import (
    AnswerFile,
    Manifest,
    TaskManifest,
    finish_stamp,
    is_committed,
    read_manifest,
    read_versioned_manifest,
    replace_manifest,
)

MANIFEST = Manifest(
    job="tickets",
    partition="dt=2026-11-20",
    tasks={
        "summaries": TaskManifest(
            settings="0123",
            model_fingerprint="4567",
            finished_at=datetime(2026, 11, 20, tzinfo=UTC),
            files=[AnswerFile(name="a.parquet", rows=3, shard_version="7")],
            failed_shards=["b.parquet"],
        )
    },
)


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    uri = f"{tmp_path}/deep/manifest.json"
    assert replace_manifest(uri, MANIFEST, version=None)
    assert read_manifest(uri) == MANIFEST


def test_of_two_writers_who_read_the_same_manifest_one_wins(tmp_path: Path) -> None:
    uri = f"{tmp_path}/manifest.json"
    replace_manifest(uri, MANIFEST, version=None)
    manifest, version = read_versioned_manifest(uri)
    assert manifest is not None
    first, second = (
        manifest.model_copy(update={"job": "first"}),
        manifest.model_copy(update={"job": "second"}),
    )
    assert replace_manifest(uri, first, version=version)
    assert not replace_manifest(uri, second, version=version)
    assert read_manifest(uri) == first


def test_a_partition_is_committed_when_the_manifest_of_the_same_plan_is_new(tmp_path: Path) -> None:
    uri = f"{tmp_path}/manifest.json"
    tasks = ["summaries"]
    assert not is_committed(uri, "plan", tasks, "")
    made = MANIFEST.tasks["summaries"].model_copy(update={"plan": "plan"})
    first = MANIFEST.model_copy(update={"tasks": {"summaries": made}})
    replace_manifest(uri, first, version=None)
    assert is_committed(uri, "plan", tasks, "")
    assert not is_committed(uri, "another plan", tasks, "")
    assert not is_committed(uri, "plan", ["summaries", "translations"], ""), (
        "one of two tasks is not finished"
    )
    stamp = finish_stamp(read_manifest(uri), tasks, "plan")
    assert not is_committed(uri, "plan", tasks, stamp), "it lay there when the run began"
    other = MANIFEST.tasks["summaries"].model_copy(update={"plan": "plan of one task"})
    both = first.model_copy(update={"tasks": {"summaries": made, "translations": other}})
    replace_manifest(uri, both, version=read_versioned_manifest(uri)[1])
    assert not is_committed(uri, "plan", tasks, stamp), "a run of another task has finished, not one of these"
    again = made.model_copy(update={"finished_at": made.finished_at + timedelta(seconds=1)})
    replace_manifest(
        uri, first.model_copy(update={"tasks": {"summaries": again}}), version=read_versioned_manifest(uri)[1]
    )
    assert is_committed(uri, "plan", tasks, stamp)


def test_no_manifest_is_none(tmp_path: Path) -> None:
    assert read_manifest(f"{tmp_path}/manifest.json") is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"manifest_version": 99, "shape": "new"}',
        b"{}",
        b"",
        b"[]",
        b"\xff",
        b'{"manifest_version": 1, "job": 7}',
    ],
)
def test_a_manifest_that_cannot_be_understood_counts_as_none(tmp_path: Path, content: bytes) -> None:
    """A run reads the old one at its very end: it must not lose its work to what others left there."""
    uri = f"{tmp_path}/manifest.json"
    storage.put_bytes(uri, content)
    assert read_manifest(uri) is None
