"""The main job on the real vLLM: right answers, the same as without docmill, wherever the files lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from end_to_end.recorder import DAY, Recorder

from docmill.data.layout import Layout
from docmill.engine.config import ModelConfig
from docmill.engine.model_files import resolve_model
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.accuracy import demo_accuracy
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Report
from docmill.ops.sources import ensure_source

if TYPE_CHECKING:
    from servers.ceph_server import CephServer

    from docmill.engine.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm

TASKS = ("translations", "classifications", "summaries")


@dataclass(frozen=True)
class Run:
    job: Job
    report: Report
    recorder: Recorder

    def answers(self, task: str) -> pl.DataFrame:
        return pl.read_parquet(f"{self.job.output.uri}/{task}/**/*.parquet", hive_partitioning=True)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, vllm_engine: VllmEngine, demo_job: Callable[..., Job]
) -> Run:
    """100 documents, some of several chunks, all three tasks."""
    job = demo_job(tmp_path_factory.mktemp("main-job"), documents=100)
    recorder = Recorder(vllm_engine)
    return Run(job, run_partition(job, job.partition(DAY), engine=recorder), recorder)


def test_every_document_has_every_answer_once(run: Run) -> None:
    documents = pl.read_parquet(f"{run.job.source.uri}/**/*.parquet", hive_partitioning=True)
    for task in TASKS:
        answers = run.answers(task)
        assert answers["doc_id"].to_list() == documents["doc_id"].to_list(), task
        assert set(answers["status"]) == {"ok"}, task
        counts = run.report.tasks[task].counts
        assert (counts.rows, counts.ok, counts.balanced) == (100, 100, True), task


def test_the_tasks_of_a_document_share_its_prefix(run: Run) -> None:
    """Labels, the shortest answers, are asked last: by vLLM's own count most of their prompts was there already."""
    labels = run.report.tasks["classifications"].tokens
    assert labels.cached / labels.prompt > 0.5
    assert run.report.tokens.cached == sum(task.tokens.cached for task in run.report.tasks.values())


def test_the_report_tells_how_full_the_engine_was(run: Run) -> None:
    report, points = run.report, run.report.timeline
    assert 0.3 < report.rates.engine_full_share <= 1
    assert report.idle.draining > 0  # the last answers never end all at once
    assert [point.seconds for point in points] == sorted(point.seconds for point in points)
    assert max(point.num_running for point in points) > 32
    assert max(point.kv_cache_used for point in points) > 0
    written = [point.num_output_tokens for point in points]
    assert written == sorted(written)
    assert 0 < written[-1] <= report.computed_tokens.output
    assert 0 < points[-1].num_prompt_tokens <= report.computed_tokens.prompt - report.computed_tokens.cached


def test_the_answers_are_those_of_llm_generate_row_for_row(
    run: Run, tmp_path: Path, demo_tokenizer: ModelTokenizer
) -> None:
    """One `LLM.generate` a kind, greedy. Where we score labels it writes text, which must be our best label."""
    asked: dict[str, list[str]] = {"texts": [], "labels": []}
    for request in run.recorder.requests.values():
        asked["labels" if request.labels else "texts"].append(request.id)
    prompts = {
        kind: {
            "prompts": [list(run.recorder.requests[name].prompt_token_ids) for name in names],
            "max_tokens": [
                16 if kind == "labels" else run.recorder.requests[name].sampling.max_tokens for name in names
            ],
        }
        for kind, names in asked.items()
    }
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    program = Path(__file__).with_name("llm_generate.py")
    model = resolve_model(ModelConfig())
    files = [str(tmp_path / "prompts.json"), str(tmp_path / "answers.json")]
    done = subprocess.run(
        [sys.executable, program, *files, model], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reference = json.loads((tmp_path / "answers.json").read_text())

    ours = [list(run.recorder.answers[name].token_ids) for name in asked["texts"]]
    different = [n for n, (a, b) in enumerate(zip(ours, reference["texts"], strict=True)) if a != b]
    print(f"{len(different)} of {len(ours)} texts differ from LLM.generate")
    assert not different, [
        (demo_tokenizer.decode(ours[n]), demo_tokenizer.decode(reference["texts"][n])) for n in different[:3]
    ]

    labels = run.job.tasks["classifications"].labels  # type: ignore[union-attr]
    written = [demo_tokenizer.decode(ids).strip() for ids in reference["labels"]]
    scored = []
    for name in asked["labels"]:
        logprobs = run.recorder.answers[name].label_logprobs
        assert logprobs is not None
        scored.append(labels[max(range(len(labels)), key=logprobs.__getitem__)])
    assert written == scored


def test_the_model_answers_fresh_documents_right(vllm_engine: VllmEngine) -> None:
    report = demo_accuracy(seed=90210, num_documents=150, engine=vllm_engine)
    print(report.model_dump_json(exclude={"run"}))
    assert report.chunked_documents > 0
    assert report.passed, report.model_dump_json(exclude={"run"}, indent=1)


@pytest.mark.s3
def test_the_same_job_from_bucket_to_bucket_gives_the_same_answers(
    run: Run,
    ceph_server: CephServer,
    vllm_engine: VllmEngine,
    demo_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ceph_server.s3.env().items():
        monkeypatch.setenv(name, value)
    job = demo_job(ceph_server.s3.uri("main-job"), documents=100)
    report = run_partition(job, job.partition(DAY), engine=vllm_engine)
    assert report.documents == 100
    for task in TASKS:
        there = pl.read_parquet(f"{job.output.uri}/{task}/**/*.parquet", hive_partitioning=True)
        own = ["doc_id", "status", *(column.name for column in job.tasks[task].columns)]
        exact = [column for column in own if column not in ("score", "label_scores")]
        assert there.select(exact).equals(run.answers(task).select(exact)), task
    layout = Layout(job.output.uri, job.partition(DAY))
    assert layout.manifest.startswith("s3://")


def test_a_text_of_control_tokens_changes_nobody_elses_answer(
    run: Run, tmp_path: Path, vllm_engine: VllmEngine, demo_job: Callable[..., Job]
) -> None:
    """The same corpus with the bad rows beside it: the other shards' answers are those of the undisturbed run."""
    hostile = demo_job(tmp_path, documents=100, prepare={"max_chars": 20_000})
    corpus = hostile.source.generate.model_copy(update={"hostile": True})  # type: ignore[union-attr]
    job = hostile.model_copy(update={"source": hostile.source.model_copy(update={"generate": corpus})})
    ensure_source(job)
    report = run_partition(job, job.partition(DAY), engine=vllm_engine)
    for task in TASKS:
        counts = report.tasks[task].counts
        assert counts.balanced
        assert counts.failed >= 3  # null, 10 MB, doubled id
        own = ["doc_id", *(column.name for column in job.tasks[task].columns if "score" not in column.name)]
        answers = pl.read_parquet(f"{job.output.uri}/{task}/**/part-*.parquet", hive_partitioning=True)
        assert answers.select(own).equals(run.answers(task).select(own)), task
