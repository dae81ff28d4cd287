"""What a trimmed vocabulary keeps is all that the partition and `keep_texts` have; the rest of a day is foretold."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data.records import Partition
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.compression.compress_job import compress_job
from docmill.ops.compression.corpus_tokens import corpus_tokens
from docmill.ops.compression.halves import is_held_out
from docmill.ops.errors import JobError
from docmill.ops.job import Job

COMMON = "the parcel has not come"


def texts_of_half(half: bool, words: str, number: int) -> list[str]:
    """So many that fall into one half, and differ in spaces that no cleaning touches."""
    found = (f"{words} {'parcel ' * repeat}come" for repeat in range(100))
    return [text for text in found if is_held_out(text) is half][:number]


def job_of(folder: Path, texts: list[str], keep: list[str] | None = None) -> Job:
    (folder / "documents").mkdir()
    pq.write_table(table_of(texts), folder / "documents" / "0.parquet")
    compress = {"recipe": "trim"}
    if keep is not None:
        (folder / "keep").mkdir()
        pq.write_table(table_of(keep).select(["text"]), folder / "keep" / "0.parquet")
        compress["keep_texts"] = str(folder / "keep")
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


def table_of(texts: list[str]) -> pa.Table:
    return pa.table({"doc_id": [str(number) for number in range(len(texts))], "text": texts})


def test_tokens_of_documents_prompts_and_kept_texts_are_counted(tmp_path: Path) -> None:
    texts = [*texts_of_half(False, COMMON, 3), *texts_of_half(True, COMMON, 2)]
    job = job_of(tmp_path, texts, keep=["une facture impayée"])
    tokenizer = ModelTokenizer(job.model.uncompressed)
    asked = AskedSequence((1, 2, 3, 3), 2)
    label = tokenizer.encode_data(["cancellation"])[0]
    found = corpus_tokens(job, Partition(), [asked], [((5,), tuple(label))])
    expected = Counter(chain.from_iterable(tokenizer.encode_data([*texts, "une facture impayée"])))
    assert found.counts == expected + Counter([*asked.token_ids, 5, *label])
    assert (found.unseen_share, found.unseen_document_share) == (0, 0)


@pytest.mark.parametrize("kept", [False, True])
def test_what_one_half_alone_has_is_to_be_expected_of_another_day(tmp_path: Path, kept: bool) -> None:
    rare = "Überweisung"
    texts = [
        *texts_of_half(False, COMMON, 4),
        *texts_of_half(True, COMMON, 3),
        *texts_of_half(True, f"{COMMON} {rare}", 1),
    ]
    job = job_of(tmp_path, texts, keep=[f"{COMMON} {rare}"] if kept else None)
    tokenizer = ModelTokenizer(job.model.uncompressed)
    seen, *others = (
        Counter(chain.from_iterable(tokenizer.encode_data(some))) for some in (texts[:4], texts[4:])
    )
    new = others[0].keys() - seen.keys()
    assert new, "the word is one of the vocabulary's own pieces"
    found = corpus_tokens(job, Partition(), [], [])
    assert (new <= found.half_counts.keys()) is kept
    assert new <= found.counts.keys()
    if kept:
        assert (found.unseen_share, found.unseen_document_share) == (0, 0)
    else:
        num_unseen = sum(others[0][token] for token in new)
        assert found.unseen_share == pytest.approx(num_unseen / others[0].total())
        assert found.unseen_document_share == 0.25


def test_a_folder_without_texts_to_keep_is_said_before_anything_runs(tmp_path: Path) -> None:
    job = job_of(tmp_path, texts_of_half(False, COMMON, 3), keep=[])
    (tmp_path / "keep" / "0.parquet").unlink()
    with pytest.raises(
        JobError, match=r"keep_texts: no Parquet files in .*keep; expected a folder of them.*'text'"
    ):
        compress_job(job, Partition())
