"""The reference job both ways: docmill, and calls of `LLM.generate` over the very same token ids.

`docmill` runs the whole job, Parquet to Parquet, from the loaded model to the manifest. `LLM.generate` gets prompts
that are made already and writes nothing, see `plain_vllm.py`. Both have the same vLLM, threads, KV cache and batch
limits: those that were best for `LLM.generate`. The two of a pair run by turns, see `turns.py`, or one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from measuring import spread
from plain_vllm import PlainOrder, read_answers, write_order
from reference_job import DAY, KV_CACHE_GIB, TASKS, Question, questions, reference_job, write_documents
from turns import run_alone, run_by_turns

from docmill.engine.config import EngineConfig
from docmill.engine.model_files import resolve_model
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, EngineInfo
from docmill.engine.vllm_settings import engine_args
from docmill.ops.job import Job

CANDIDATES = (64, 128, 256)  # sequences at once
BATCHED_TOKENS = 4096  # what `LLM` takes on a CPU
SHARDS_TO_TUNE_ON = 2
# Another batch adds floats up in another order. Beyond this it would be another answer.
DIFFERING_SHARE, SCORE_DIFFERENCE = 0.005, 1e-3

DOCMILL_RUN = Path(__file__).with_name("docmill_run.py")
FIGURES = (
    "engine_steps",
    "prompt_tokens",
    "cached_tokens",
    "computed_prompt_tokens",
    "output_tokens",
)

Calls = Callable[[list[Question]], list[list[Question]]]


class Comparison:
    """One corpus in a folder, the questions about it, and both ways of asking them."""

    def __init__(self, folder: Path, *, num_documents: int, duplicate_share: float):
        self.folder = folder
        self.corpus = write_documents(
            folder, num_documents=num_documents, duplicate_share=duplicate_share, seed=11
        )
        self.engine = EngineConfig(
            kv_cache_gib=KV_CACHE_GIB, max_num_seqs=CANDIDATES[0], max_num_batched_tokens=BATCHED_TOKENS
        )
        job = self.job("questions")
        self.tokenizer = ModelTokenizer(job.model)
        started = start_engine(job.model, job.engine)
        try:
            started.wait_until_loaded()
            self.info: EngineInfo = started.info
        finally:
            started.close()
        self.questions = list(questions(job, self.info, self.tokenizer))
        self._source = resolve_model(job.model)
        self._num_runs = 0

    def job(self, output: str) -> Job:
        """With an output of its own."""
        return reference_job(self.folder, output, self.engine)

    def tune(self, way: Calls) -> dict[int, float]:
        """Seconds of `LLM.generate` by its sequences at once, over the first shards; the best is what all get."""
        shards = sorted({question.shard for question in self.questions})[:SHARDS_TO_TUNE_ON]
        few = [question for question in self.questions if question.shard in shards]
        commands = {}
        for num_seqs in CANDIDATES:
            self.engine = self.engine.model_copy(update={"max_num_seqs": num_seqs})
            commands[str(num_seqs)] = self._plain(way(few), f"tune-{num_seqs}")
        seconds = {int(name): round(run["seconds"], 2) for name, run in run_by_turns(commands).items()}
        best = min(seconds, key=seconds.__getitem__)
        self.engine = self.engine.model_copy(update={"max_num_seqs": best})
        return seconds

    def _plain(self, calls: Iterable[Iterable[Question]], name: str) -> list[str]:
        """The command of `LLM.generate`, call by call."""
        args = engine_args(self.engine, self.job(name).model, source=self._source, device="cpu")
        order = PlainOrder(args, [[question.request for question in call] for call in calls])
        return write_order(self.folder / name, order)

    def pair(
        self, way: Calls, *, docmill_first: bool, by_turns: bool = True
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Figures of both ways, run by turns or one after the other, and what `compare` says of their answers."""
        self._num_runs += 1
        job, plain = self.job(f"answers-{self._num_runs}"), f"plain-{self._num_runs}"
        commands = {
            "docmill": [str(DOCMILL_RUN), job.model_dump_json(), str(DAY)],
            way.__name__: self._plain(way(self.questions), plain),
        }
        names = [*commands] if docmill_first else [*reversed(commands)]
        if by_turns:
            figures = run_by_turns({name: commands[name] for name in names})
        else:
            figures = {name: run_alone(commands[name]) for name in names}
        runs = {
            name: {"way": name, "seconds": round(figures[name]["seconds"], 2)}
            | {key: figures[name][key] for key in FIGURES}
            for name in commands
        }
        for run in runs.values():
            print(run, flush=True)
        return runs, compare(self.questions, read_answers(self.folder / plain), job)

    def measure(self, way: Calls, repeats: int, *, by_turns: bool = True) -> dict[str, Any]:
        """Tunes, then `repeats` pairs; everything a result has to say of them."""
        if repeats < 2:
            raise SystemExit("--repeats: at least 2, or there is no spread to tell")
        print(self.corpus, flush=True)
        tuned = self.tune(way)
        print(f"seconds of LLM.generate by max_num_seqs: {tuned}", flush=True)
        runs: list[dict[str, Any]] = []
        ratios: list[float] = []
        answers: list[dict[str, Any]] = []
        for repeat in range(repeats):
            pair, equal = self.pair(way, docmill_first=repeat % 2 == 1, by_turns=by_turns)
            runs += pair.values()
            answers.append(equal)
            ratios.append(pair[way.__name__]["seconds"] / pair["docmill"]["seconds"])
            print(f"repeat {repeat}: {ratios[-1]:.3f}; {equal}", flush=True)
        return {
            "corpus": self.corpus,
            "tasks": TASKS,
            "kv_cache_gib": KV_CACHE_GIB,
            "seconds_by_max_num_seqs": tuned,
            "max_num_seqs": self.engine.max_num_seqs,
            "max_num_batched_tokens": BATCHED_TOKENS,
            "ratios": spread(ratios),
            "answers": answers,
            "runs": runs,
        }


def answers_hold(measured: dict[str, Any]) -> bool:
    """Whether every repeat gave the same answers, but for what last digits of floats explain."""
    return all(
        equal["share_that_differs"] <= DIFFERING_SHARE
        and equal["largest_score_difference"] <= SCORE_DIFFERENCE
        for equal in measured["answers"]
    )


def per_shard(asked: list[Question]) -> list[list[Question]]:
    """A call a shard and task."""
    shards = [list(group) for _, group in groupby(asked, key=lambda question: question.shard)]
    return [call for shard in shards for call in per_task(shard)]


def per_task(asked: list[Question]) -> list[list[Question]]:
    """A call a task."""
    return [[question for question in asked if question.task == task] for task in TASKS]


def all_at_once(asked: list[Question]) -> list[list[Question]]:
    """One call, in docmill's order."""
    return [asked]


def compare(asked: list[Question], answers: dict[str, Completion], job: Job) -> dict[str, Any]:
    """docmill's rows beside those that the plain completions give. Only last digits may make a difference."""
    rows = {
        (task, path.name, row): answer
        for task in TASKS
        for path in sorted(Path(job.output.uri, task).rglob("*.parquet"))
        for row, answer in enumerate(pl.read_parquet(path, hive_partitioning=False).to_dicts())
    }
    assert len(rows) == len(asked), "a row is missing, or one too many"
    differing = dict.fromkeys(TASKS, 0)
    largest_score_difference = 0.0
    for question in asked:
        row = rows[question.task, question.shard, question.row]
        assert row["status"] == "ok"
        assert row["request_key"] == question.key, "docmill asked something else"
        columns = question.read(answers[question.request.id])
        if question.task == "topics":
            largest_score_difference = max(largest_score_difference, abs(row["score"] - columns["score"]))
            differing["topics"] += row["label"] != columns["label"]
        else:
            differing[question.task] += any(row[name] != value for name, value in columns.items())
    return {
        "rows": len(rows),
        "rows_that_differ": differing,
        "share_that_differs": sum(differing.values()) / len(rows),
        "largest_score_difference": largest_score_difference,
    }
