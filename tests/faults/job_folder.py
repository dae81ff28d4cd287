"""The job that is disturbed: a small corpus, all three tasks, the demo model on the real vLLM, and its right answers.

The corpus is the demo's, without long documents and without equal ones: each row of a task is then one request, and its
`request_key` and token counts tell exactly which requests were computed how often.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import yaml

from docmill.data.demo import LABELS
from docmill.data.demo.batches import DEMO_SCHEMA
from docmill.data.demo.corpus import demo_documents
from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.data.shards import ShardWriter

DAY = "2026-11-20"
PARTITION = Partition("dt", DAY)
ANSWER_COLUMNS = {"translations": "translation", "classifications": "label", "summaries": "summary"}
LONGEST_TEXT = 300  # characters; never cut into chunks
SHARDS = 3
DOCMILL = str(Path(sys.executable).parent / "docmill")
LOAD_TIMEOUT_SECONDS = 300.0

# A short lease and small segments, so that takeovers happen within a test; five seconds are the promise.
LEDGER = {"unit_seconds": 0.5, "segment_seconds": 1.0, "lease_seconds": 3.0}


@dataclass(frozen=True)
class JobFolder:
    """One job with its own output: a YAML file that `docmill run` and Dagster read."""

    file: Path
    output_uri: str
    partition: Partition = PARTITION

    @property
    def layout(self) -> Layout:
        return Layout(self.output_uri, self.partition)


def write_corpus(uri: str, *, documents: int, seed: int) -> list[str]:
    """Write the shards and return the ids of all documents, in order."""
    candidates = demo_documents(seed=seed, num_documents=20 * documents, duplicate_share=0.0)
    rows, texts = [], set()
    for document in candidates:
        if len(document.text) <= LONGEST_TEXT and document.text not in texts:
            texts.add(document.text)
            rows.append({name: getattr(document, name) for name in DEMO_SCHEMA.names})
            if len(rows) == documents:
                break
    assert len(rows) == documents, f"{len(rows)} short documents found, {documents} wanted"
    left = iter(rows)
    for number in range(SHARDS):
        size = documents * (number + 1) // SHARDS - documents * number // SHARDS
        with ShardWriter(f"{uri}/dt={DAY}/part-{number:04}.parquet", DEMO_SCHEMA) as writer:
            batch = pa.RecordBatch.from_pylist(list(islice(left, size)), schema=DEMO_SCHEMA)
            writer.write(batch)
            writer.commit()
    return [row["doc_id"] for row in rows]


def make_job(folder: Path, source_uri: str, output_uri: str, **settings: Any) -> JobFolder:
    """Write the YAML file. `settings` are added to the job's, key by key; `tasks` replace them."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "name": "faults",
        "source": {"uri": source_uri, "start_date": DAY},
        "output": {"uri": output_uri},
        "chunking": {"max_tokens": 320},
        "engine": {"hang_seconds": 10, "max_restarts": 20},
        "ledger": LEDGER,
        "prices": {"usd_per_hour": {"cpu": 0.1}},
        "tasks": {
            "translations": {"kind": "translate"},
            "classifications": {"kind": "classify", "labels": list(LABELS)},
            "summaries": {"kind": "summarize"},
        },
    }
    for key, value in settings.items():
        adds = isinstance(value, dict) and key != "tasks"
        content[key] = {**content.get(key, {}), **value} if adds else value
    file = folder / "faults.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return JobFolder(file, output_uri)


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives that nobody disturbs."""

    doc_ids: list[str]
    answers: dict[str, pl.DataFrame]  # by task: doc_id, status, the answer
    report: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Prompt and output tokens of all requests: what an engine has to compute once."""
        return int(self.report["tokens"]["prompt"] + self.report["tokens"]["output"])


def run_undisturbed(
    job: JobFolder, doc_ids: list[str], *, env: Mapping[str, str] | None = None
) -> Undisturbed:
    """`docmill run` from start to end."""
    done = subprocess.run(
        [DOCMILL, "run", str(job.file), "--partition", DAY, "--json"],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LOAD_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["chunked_documents"] == 0, "token counts are only exact for documents of one chunk"
    return Undisturbed(doc_ids, {task: read_answers(job, task) for task in ANSWER_COLUMNS}, report)


def read_answers(job: JobFolder, task: str) -> pl.DataFrame:
    """What a reader sees of one task: a plain glob, in the order of the files and their rows."""
    # Through our own door: Polars' object store has other ideas of retries.
    from docmill.data import storage

    tables = []
    for shard in storage.list_shards(job.layout.answers_folder(task)):
        with storage.open_input(shard.uri) as stream:
            tables.append(pl.read_parquet(stream.read()).select("doc_id", "status", ANSWER_COLUMNS[task]))
    return pl.concat(tables) if tables else pl.DataFrame(schema=["doc_id", "status", ANSWER_COLUMNS[task]])
