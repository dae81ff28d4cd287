"""What a model is made on and what it is judged on share no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.data.records import Partition
from docmill.ops.compression.halves import halves
from docmill.ops.compression.made import config_of
from docmill.ops.errors import JobError
from docmill.ops.job import Job


def job_of(folder: Path, texts: list[str | None], **compress: Any) -> Job:
    (folder / "documents").mkdir()
    table = pa.table(
        {
            "doc_id": [str(number) for number in range(len(texts))],
            "text": pa.array(texts, pa.string()),
            "right": [f"right of {text}" for text in texts],
        }
    )
    for part in range(2):
        half = table.slice(part * len(texts) // 2, len(texts) // 2)
        pq.write_table(half, folder / "documents" / f"{part}.parquet")
    return Job.model_validate(
        {
            "name": "small",
            "source": {"uri": str(folder / "documents"), "partition_key": None},
            "output": {"uri": str(folder / "answers")},
            "model": {"compress": compress},
            "engine": {"kind": "fake"},
            "tasks": {"english": {"kind": "translate"}},
        }
    )


def texts_of(job: Job) -> list[dict[str, str]]:
    found = []
    for shard in storage.list_shards(job.source.uri):
        found += pq.read_table(shard.uri).to_pylist()
    return found


def test_equal_texts_fall_into_one_half_and_right_answers_come_along(tmp_path: Path) -> None:
    texts = [f"text {number % 300}" for number in range(900)] + [None, "", "  "] * 20
    job = job_of(tmp_path, texts, references={"english": "right"}, sample=2000, max_drop=0.2)
    with halves(job, Partition(), config_of(job)) as found:
        made, judged = texts_of(found.calibration.job), texts_of(found.held_out.job)
        assert len(made) + len(judged) == 900  # rows without a text are in neither
        assert not {row["text"] for row in made} & {row["text"] for row in judged}
        assert all(row["right"] == f"right of {row['text']}" for row in (*made, *judged))
        assert 300 < len(judged) < 600
    assert not storage.list_shards(job.output.uri)


def test_too_few_documents_are_said_before_anything_is_done(tmp_path: Path) -> None:
    job = job_of(tmp_path, [f"text {number}" for number in range(30)], max_drop=0.3)
    with pytest.raises(
        JobError, match=r"partition all leaves \d+ documents to (make|judge) a model on, of 30"
    ):
        halves(job, Partition(), config_of(job)).__enter__()


def test_a_budget_that_no_answers_could_show_to_be_kept_is_said(tmp_path: Path) -> None:
    job = job_of(tmp_path, [f"text {number}" for number in range(400)], max_drop=0.005)
    with pytest.raises(
        JobError,
        match=r"show a drop of less than 2\.\d+%.* `max_drop` asks for 0\.50%.*Partition all has 400 .*1,800 doc",
    ):
        halves(job, Partition(), config_of(job)).__enter__()


def test_a_reference_column_that_does_not_exist_is_named(tmp_path: Path) -> None:
    job = job_of(
        tmp_path, [f"text {number}" for number in range(100)], references={"english": "wrong"}, max_drop=0.2
    )
    with (
        pytest.raises(
            JobError, match=r"model\.compress\.references: no file .* columns wrong: .*'wrong' is missing"
        ),
        halves(job, Partition(), config_of(job)),
    ):
        pass
