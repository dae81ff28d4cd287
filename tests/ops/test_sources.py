"""Generated sources: made once, made anew when the settings change, and nobody else's files touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.partitions import find_shards, list_partitions
from docmill.ops.sources import MADE_WITH, UNFINISHED, ensure_source

DAYS = ["2026-11-19", "2026-11-20"]


def demo_job(folder: Path, **corpus: Any) -> Job:
    generate = {"kind": "demo", "days": DAYS, "documents_per_day": 6, "shards_per_day": 3, **corpus}
    return Job.model_validate(
        {
            "name": "test",
            "source": {"uri": str(folder / "documents"), "generate": generate},
            "output": {"uri": str(folder / "answers")},
            "engine": {"kind": "fake"},
            "tasks": {"translations": {"kind": "translate"}},
        }
    )


def test_a_source_is_made_once(tmp_path: Path) -> None:
    job = demo_job(tmp_path)
    assert ensure_source(job) is True
    shards = find_shards(job, job.partition("2026-11-20"))
    assert [shard.name for shard in shards] == [f"part-{number:04}.parquet" for number in range(3)]
    assert list_partitions(job) == DAYS
    assert ensure_source(job) is False
    assert find_shards(job, job.partition("2026-11-20")) == shards, "not written again"


def test_other_settings_make_it_anew_and_leave_nothing_of_the_old(tmp_path: Path) -> None:
    ensure_source(demo_job(tmp_path, hostile=True))
    job = demo_job(tmp_path, shards_per_day=2, days=DAYS[1:], documents_per_day=5)
    assert ensure_source(job) is True
    assert [shard.name for shard in storage.list_shards(job.source.uri)] == [
        "dt=2026-11-20/part-0000.parquet",
        "dt=2026-11-20/part-0001.parquet",
    ]
    assert sum(pq.read_metadata(s.uri).num_rows for s in find_shards(job, job.partition("2026-11-20"))) == 5


def test_documents_that_docmill_did_not_make_are_not_mixed_with_made_ones(tmp_path: Path) -> None:
    """The likely slip: the demo's YAML copied, `source.uri` changed, `generate` left in."""
    job = demo_job(tmp_path)
    mine = f"{job.source.uri}/dt=2026-11-20/mine.parquet"
    storage.put_bytes(mine, b"mine")
    with pytest.raises(JobError, match="leave `generate` out"):
        ensure_source(job)
    assert [shard.uri for shard in storage.list_shards(job.source.uri)] == [mine]


def test_files_put_beside_made_ones_stay_when_those_are_made_anew(tmp_path: Path) -> None:
    job = demo_job(tmp_path)
    ensure_source(job)
    storage.put_bytes(f"{job.source.uri}/dt=2026-11-20/mine.parquet", b"mine")
    ensure_source(demo_job(tmp_path, shards_per_day=1))
    names = [shard.name for shard in find_shards(job, job.partition("2026-11-20"))]
    assert names == ["mine.parquet", "part-0000.parquet"]


def test_a_source_whose_making_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    job = demo_job(tmp_path)
    ensure_source(job)
    whole = [shard.num_bytes for shard in storage.list_shards(job.source.uri)]
    marker = f"{job.source.uri}/{MADE_WITH}"
    storage.put_bytes(marker, UNFINISHED + storage.read_bytes(marker))
    storage.delete(storage.list_shards(job.source.uri)[-1].uri)
    assert ensure_source(job) is True
    assert [shard.num_bytes for shard in storage.list_shards(job.source.uri)] == whole


def test_a_job_with_a_source_of_its_own_is_left_alone(tmp_path: Path) -> None:
    settings = demo_job(tmp_path).model_dump()
    settings["source"]["generate"] = None
    assert ensure_source(Job.model_validate(settings)) is False
    assert not (tmp_path / "documents").exists()


def test_the_distributions_run_end_to_end(tmp_path: Path, tokenizer: Any) -> None:
    settings = demo_job(tmp_path).model_dump() | {
        "tasks": {"topics": {"kind": "classify", "labels": ["a", "b"]}}
    }
    settings["source"] |= {
        "generate": {"kind": "distributions"},
        "partition_key": None,
        "id_column": "name",
        "text_column": "description",
        "carry": ["version", "topics"],
    }
    job = Job.model_validate(settings)
    assert ensure_source(job) is True
    report = run_partition(job, job.partition(None), tokenizer=tokenizer)
    counts = report.tasks["topics"].counts
    assert counts.balanced
    assert counts.ok > 50
    assert report.chunked_documents > 0
