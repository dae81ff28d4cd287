"""How right the demo model is, on fresh documents of the demo corpus, through the whole job and the real vLLM.

The documents come from a seed that the training never saw, so nothing here was learned by heart. A job's answers are
compared with the reference columns that it carried along.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from docmill.data import storage
from docmill.data.demo import LABELS
from docmill.data.layout import Layout
from docmill.engine.types import Engine
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.progress import OnProgress, ignore_progress
from docmill.ops.report import Report
from docmill.ops.sources import ensure_source

DAY = date(2026, 11, 20)
REFERENCES = ["reference_translation", "reference_label", "reference_summary"]
MIN_LABEL_ACCURACY = 0.99
MIN_SUMMARY_EXACT_MATCH = 0.97
MIN_TRANSLATION_SENTENCE_EXACT_MATCH = 0.95

_SENTENCE = re.compile(
    r"[^.!?]+[.!?]"
)  # the corpus has no abbreviations; English sentences end with one of the three


class AccuracyReport(BaseModel):
    """Shares of right answers, from 0 to 1, and whether each reaches its bar."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    documents: int
    chunked_documents: int
    sentences: int
    label_accuracy: float
    summary_exact_match: float
    translation_sentence_exact_match: float
    translation_exact_match: float
    passed: bool
    run: Report


def demo_accuracy(
    *, seed: int, num_documents: int, engine: Engine | None = None, on_progress: OnProgress = ignore_progress
) -> AccuracyReport:
    """Run the demo tasks over `num_documents` fresh documents of `seed` and compare."""
    with tempfile.TemporaryDirectory(prefix="docmill-accuracy-") as folder:
        job = accuracy_job(Path(folder), seed=seed, num_documents=num_documents)
        ensure_source(job)
        partition = job.partition(DAY.isoformat())
        report = run_partition(job, partition, engine=engine, on_progress=on_progress)
        layout = Layout(job.output.uri, partition)
        labels = [row["label"] == row["reference_label"] for row in _rows(layout, "classifications")]
        summaries = [row["summary"] == row["reference_summary"] for row in _rows(layout, "summaries")]
        translations = [
            (row["translation"] or "", row["reference_translation"]) for row in _rows(layout, "translations")
        ]
    sentences = [right for answer, reference in translations for right in _sentences_right(answer, reference)]
    label_accuracy, summary_exact_match = _share(labels), _share(summaries)
    sentence_exact_match = _share(sentences)
    return AccuracyReport(
        seed=seed,
        documents=report.documents,
        chunked_documents=report.chunked_documents,
        sentences=len(sentences),
        label_accuracy=label_accuracy,
        summary_exact_match=summary_exact_match,
        translation_sentence_exact_match=sentence_exact_match,
        translation_exact_match=_share([answer == reference for answer, reference in translations]),
        passed=label_accuracy >= MIN_LABEL_ACCURACY
        and summary_exact_match >= MIN_SUMMARY_EXACT_MATCH
        and sentence_exact_match >= MIN_TRANSLATION_SENTENCE_EXACT_MATCH,
        run=report,
    )


def accuracy_job(folder: Path, *, seed: int, num_documents: int) -> Job:
    """The three demo tasks over a fresh corpus in `folder`."""
    return Job.model_validate(
        {
            "name": "accuracy",
            "source": {
                "uri": str(folder / "documents"),
                "carry": REFERENCES,
                "generate": {"kind": "demo", "days": [DAY], "documents_per_day": num_documents, "seed": seed},
            },
            "output": {"uri": str(folder / "answers")},
            "chunking": {"max_tokens": 128},
            "tasks": {
                "translations": {"kind": "translate"},
                "classifications": {"kind": "classify", "labels": list(LABELS)},
                "summaries": {"kind": "summarize"},
            },
        }
    )


def _rows(layout: Layout, task: str) -> Iterator[dict[str, Any]]:
    for shard in storage.list_shards(layout.answers_folder(task)):
        with storage.open_input(shard.uri) as stream:
            yield from pq.read_table(stream).to_pylist()


def _sentences_right(answer: str, reference: str) -> list[bool]:
    """For each sentence of the reference, whether the answer has the same one at the same place from either end.

    A sentence too many or too few shifts all behind it; they are then compared from the end, so that one such error
    does not count as many.
    """
    given = [sentence.strip() for sentence in _SENTENCE.findall(answer)]
    wanted = [sentence.strip() for sentence in _SENTENCE.findall(reference)]
    if len(given) == len(wanted):
        return [a == b for a, b in zip(given, wanted, strict=True)]
    right = [False] * len(wanted)
    for position in range(min(len(given), len(wanted))):
        if given[position] != wanted[position]:
            break
        right[position] = True
    for position in range(1, min(len(given), len(wanted)) + 1):
        if given[-position] != wanted[-position]:
            break
        right[-position] = True
    return right


def _share(right: list[bool]) -> float:
    return sum(right) / len(right) if right else 0.0
