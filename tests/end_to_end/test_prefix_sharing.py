"""What documents share is computed once, by vLLM's own count, in a KV cache that holds a handful of documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data.demo.corpus import demo_documents
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import StartedEngine
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Report

# Some 3,400 tokens of the demo model.
SMALL = EngineConfig(kv_cache_gib=0.02, max_num_seqs=16)
BLOCK_TOKENS = 32


@pytest.fixture(scope="module")
def engine() -> Iterator[StartedEngine]:
    started = start_engine(ModelConfig(), SMALL)
    try:
        started.wait_until_loaded()
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    return ModelTokenizer(ModelConfig())


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return [document.text for document in islice(demo_documents(seed=5, num_documents=10**9), 2_000)]


def run(
    folder: Path, texts: list[str], tasks: dict[str, Any], engine: StartedEngine, tokenizer: ModelTokenizer
) -> Report:
    (folder / "documents").mkdir()
    ids = [str(number) for number in range(len(texts))]
    pq.write_table(pa.table({"doc_id": ids, "text": texts}), folder / "documents" / "a.parquet")
    job = Job.model_validate(
        {
            "name": "sharing",
            "source": {"uri": str(folder / "documents"), "partition_key": None},
            "output": {"uri": str(folder / "answers")},
            "engine": SMALL.model_dump(),
            "tasks": tasks,
        }
    )
    return run_partition(job, job.partition(None), engine=engine, tokenizer=tokenizer)


def test_a_document_is_computed_once_for_all_tasks_also_where_the_cache_holds_few_documents(
    tmp_path: Path, engine: StartedEngine, tokenizer: ModelTokenizer, messages: list[str]
) -> None:
    texts = ["\n".join(messages[start : start + 6]) for start in range(0, 240, 6)]
    lengths = [len(ids) for ids in tokenizer.encode_data(texts)]
    assert sum(lengths) > 4 * 3_400, "the documents are many times the cache"
    tasks = {
        "topics": {"kind": "classify", "labels": ["delivery", "billing", "account access"]},
        "summaries": {"kind": "summarize", "max_output_tokens": 32},
        "wishes": {"kind": "generate", "instruction": "What is wanted?", "max_output_tokens": 48},
    }
    report = run(tmp_path, texts, tasks, engine, tokenizer)
    computed = report.computed_tokens.prompt - report.computed_tokens.cached
    num_requests = sum(task.requests for task in report.tasks.values())
    # A document once; and of every request its instruction, and what the last block of the document has of it.
    assert computed <= sum(lengths) + num_requests * 2 * BLOCK_TOKENS
    assert report.computed_tokens.cached > 1.5 * sum(lengths), "two tasks of three find nearly all of it"


def test_documents_with_one_opening_compute_it_once_however_they_are_mixed(
    tmp_path: Path, engine: StartedEngine, tokenizer: ModelTokenizer, messages: list[str]
) -> None:
    openings = ["\n".join(messages[500 + start : 504 + start]) for start in range(0, 96, 4)]
    texts = [
        f"{opening}\n{messages[1_000 + 24 * row + n]}"
        for row in range(8)
        for n, opening in enumerate(openings)
    ]
    opening_lengths = [len(ids) for ids in tokenizer.encode_data(openings)]
    assert sum(opening_lengths) > 1.5 * 3_400, "in input order none is left in the cache when it comes again"
    tasks = {"topics": {"kind": "classify", "labels": ["delivery", "billing", "account access"]}}
    report = run(tmp_path, texts, tasks, engine, tokenizer)
    asked_again = 7 * sum(opening_lengths)
    # Whole blocks are found: on average half a block less than there is.
    assert report.computed_tokens.cached > 0.8 * asked_again
