"""Runs that end before their work does, on the real vLLM: by kill -9, a budget, SIGTERM, a poison document."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from faults.checks import check_answers, check_objects
from faults.harness import Bench
from faults.job_folder import DAY, DOCMILL, JobFolder, make_job, read_answers, write_corpus
from faults.kills import JobOutcome
from faults.processes import MARK, Run, kill_all, new_mark, wait_until_gone
from faults.watch import Watch, age

from docmill.data import storage
from docmill.data.dead_letters import read_dead_letters
from docmill.data.demo.batches import DEMO_SCHEMA
from docmill.data.shards import ShardWriter
from docmill.engine.tokenizer import ModelTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.s3, pytest.mark.timeout(600)]

POISON_TOKEN_ID = 4000  # tests/engine/poison_processor.py's, which imports vLLM
STOP_SECONDS = 30.0


class Attempts:
    """Runs of one job, one after the other, and the watch over its ledger."""

    def __init__(self, job: JobFolder, env: dict[str, str]) -> None:
        self.job, self.watch = job, Watch(job.layout)
        self._env = {**env, **new_mark()}
        self._number = 0

    def start(self) -> Run:
        self._number += 1
        command = [DOCMILL, "run", str(self.job.file), "--partition", DAY]
        return Run(command, log=self.job.file.with_name(f"run-{self._number}.log"), env=self._env)

    def wait_for_tokens(self, run: Run, tokens: int, *, timeout_seconds: float = 240) -> None:
        """Until all engines together have computed so many."""
        end = time.monotonic() + timeout_seconds
        while self.watch.engine_tokens < tokens:
            assert run.status is None, f"it ended with {run.status}: {run.tail()}"
            assert time.monotonic() < end, f"{self.watch.engine_tokens} tokens of {tokens}"
            time.sleep(0.1)
            self.watch.look()

    def wait_for_end(self, run: Run, *, timeout_seconds: float = 300) -> int:
        """Its status; watched to the last beat."""
        end = time.monotonic() + timeout_seconds
        while run.status is None:
            assert time.monotonic() < end, f"still running; {run.tail()}"
            time.sleep(0.1)
            self.watch.look()
        self.watch.look()
        return run.status

    def end(self) -> None:
        mark = self._env[MARK]
        try:
            assert wait_until_gone(mark, 10) == []
        finally:
            kill_all(mark)


@contextmanager
def attempts(right: Bench, folder: Path, *, source: str | None = None, **settings: Any) -> Iterator[Attempts]:
    job = make_job(folder, source or str(right.folder / "corpus"), f"{folder}/answers", **settings)
    found = Attempts(job, right.env)
    try:
        yield found
    finally:
        found.end()


def assert_as_undisturbed(right: Bench, job: JobFolder) -> None:
    outcome = JobOutcome("", 0, "")
    check_answers(outcome, job, right.right)
    check_objects(outcome, job)
    assert outcome.clean, outcome


def test_a_job_killed_half_way_computes_at_most_three_percent_more_than_once(
    right: Bench, tmp_path: Path
) -> None:
    """What is in flight does not grow with a job; this one is so small that a small batch stands for a large job."""
    documents = 3 * len(right.right.doc_ids)
    doc_ids = write_corpus(f"{tmp_path}/corpus", documents=documents, seed=right.seed)
    assert doc_ids[: len(right.right.doc_ids)] == right.right.doc_ids
    small = {"max_num_seqs": 4, "max_in_flight": 4}
    ledger = {"segment_seconds": 0.25, "segment_answers": 4, "lease_seconds": 1.5}
    with attempts(right, tmp_path, source=f"{tmp_path}/corpus", engine=small, ledger=ledger) as runs:
        run = runs.start()
        runs.wait_for_tokens(run, 3 * right.right.tokens // 2)
        (seen,) = runs.watch.workers.values()
        uncounted = age(seen) * seen.tokens_per_second()
        run.kill()
        assert runs.wait_for_end(runs.start()) == 0
        for task, expected in right.right.answers.items():
            answers = read_answers(runs.job, task)
            assert answers["doc_id"].to_list() == doc_ids, task
            assert answers.head(len(expected)).equals(expected), task
        report = json.loads(storage.read_bytes(runs.job.layout.report))
        once = report["tokens"]["prompt"] + report["tokens"]["output"]
        assert once > 2.5 * right.right.tokens, "the report is of the rest alone"
        computed = runs.watch.engine_tokens
        assert computed + uncounted <= 1.03 * once, (
            f"{computed} + {uncounted:.0f} tokens computed, {once} needed"
        )
        assert computed >= 0.98 * once, "beats were missed: this measures nothing"


def test_a_budget_and_then_a_signal_stop_a_run_and_nothing_is_lost(right: Bench, tmp_path: Path) -> None:
    # One by one: neither the budget, which is looked at once a second, nor the signal may come when all is done.
    few = {"max_num_seqs": 1, "max_in_flight": 1}
    spent = {"prices": {"usd_per_hour": {"cpu": 3600.0}}, "budget": {"max_usd": 1.0}}
    with attempts(right, tmp_path, engine=few, **spent) as runs:
        broke = runs.start()
        assert runs.wait_for_end(broke) == 6, broke.tail()
        assert "budget.max_usd" in broke.tail()
        make_job(tmp_path, str(right.folder / "corpus"), f"{tmp_path}/answers", engine=few)
        run = runs.start()
        runs.wait_for_tokens(run, max(runs.watch.engine_tokens, right.right.tokens // 4) + 1)
        asked_at = time.monotonic()
        run.stop(timeout_seconds=STOP_SECONDS)
        assert time.monotonic() - asked_at < STOP_SECONDS
        assert run.status == 130, run.tail()
        runs.watch.look()
        assert runs.watch.safe_tokens >= sum(seen.finished_tokens for seen in runs.watch.workers.values()), (
            "a run that stops cleanly makes all its answers safe"
        )
        assert not storage.exists(runs.job.layout.manifest)
        assert runs.wait_for_end(runs.start()) == 0
        assert_as_undisturbed(right, runs.job)


def test_a_poison_document_is_a_dead_letter_and_the_rest_completes(
    right: Bench, tmp_path: Path, demo_tokenizer: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In flight are few at a time: every halving of the suspects costs a load of the model."""
    write_corpus(f"{tmp_path}/corpus", documents=8, seed=3)
    poison = dict.fromkeys(DEMO_SCHEMA.names, "") | {
        "doc_id": "poison",
        "text": f"Die Lampe ({demo_tokenizer.decode([POISON_TOKEN_ID])}) ist kaputt.",
    }
    assert POISON_TOKEN_ID in next(iter(demo_tokenizer.encode_data([poison["text"]])))
    with ShardWriter(f"{tmp_path}/corpus/dt={DAY}/poison.parquet", DEMO_SCHEMA) as writer:
        writer.write(pa.RecordBatch.from_pylist([poison], schema=DEMO_SCHEMA))
        writer.commit()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "engine"))
    job = make_job(
        tmp_path,
        f"{tmp_path}/corpus",
        f"{tmp_path}/answers",
        engine={"max_in_flight": 2, "extra": {"logits_processors": ["poison_processor:KillsAtToken"]}},
        tasks={"summaries": {"kind": "summarize"}},
    )
    runs = Attempts(job, right.env)
    try:
        run = runs.start()
        assert runs.wait_for_end(run) == 0, run.tail()
        answers = read_answers(job, "summaries")
        assert answers.filter(pl.col("status") == "failed")["doc_id"].to_list() == ["poison"]
        assert (answers["status"] == "ok").sum() == 8
        (letter,) = read_dead_letters(job.layout.dead_letters)
        assert (letter.doc_id, letter.reason) == ("poison", "killed_engine")
        assert letter.attempts >= 3
        report = json.load(io.BytesIO(storage.read_bytes(job.layout.report)))
        assert report["dead_letters"] == 1
        assert {incident["kind"] for incident in report["incidents"]} == {"died"}
        assert f"killed by {signal.SIGKILL.name}" in report["incidents"][0]["message"]
    finally:
        runs.end()
