"""What durability costs: one job on the real vLLM, inline, with the ledger and without it.

    .venv/bin/python tests/benchmarks/durability.py [--documents 300] [--repeats 12] [--out tests/benchmarks/results]

The figure is tokens per second from the loaded model to the last byte written, planning and assembling included: the
median of the pairs' ratios. The two runs of a pair go on at the same time, by turns, see `turns.py`. What the ledger
does by the clock (beats, segments) it so does twice as often as in a run of its own. Each run loads an engine and
writes into an empty output of its own.

Told beside it, because they hardly vary: the seconds that the driver's process computes.

Answers are compared row by row, all columns but the time and what the cache held. Texts, labels and counts must be
equal. Scores may differ where other requests shared a step (a sum of floats in another order): how many and by how
much is in the result.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from measuring import DEMO_TASKS, parser, spread, write_result
from turns import run_by_turns, timed
from without_ledger import run_without_ledger

from docmill.data.demo.days import write_demo_days
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job

DAY = date(2026, 11, 20)
TARGET = 0.97
DOCMILL_RUN = Path(__file__).with_name("docmill_run.py")

SCORES = {"score", "label_scores"}
VARYING = ["produced_at", "cached_tokens"]  # the time, and what the cache happened to hold


def job_in(folder: Path, output: str) -> Job:
    """The demo job over the folder's documents."""
    return Job.model_validate(
        {
            "name": "durability",
            "source": {"uri": str(folder / "documents"), "carry": ["reference_label"]},
            "output": {"uri": str(folder / output)},
            "chunking": {"max_tokens": 128},
            "tasks": DEMO_TASKS,
        }
    )


def run_unkept(job: Job) -> None:
    """The run without the ledger, as a program."""
    tokenizer, partition = ModelTokenizer(job.model), job.partition(str(DAY))
    engine = start_engine(job.model, job.engine)

    def run() -> dict[str, Any]:
        computed = time.process_time()
        prompt, output = run_without_ledger(job, partition, engine=engine, tokenizer=tokenizer)
        return {
            "prompt_tokens": prompt,
            "output_tokens": output,
            "driver_cpu_seconds": round(time.process_time() - computed, 3),
        }

    try:
        engine.wait_until_loaded()
        timed(run)
    finally:
        engine.close()


def measure(jobs: dict[bool, Job], first: bool) -> dict[bool, dict[str, Any]]:
    """One pair."""
    commands = {
        True: [str(DOCMILL_RUN), jobs[True].model_dump_json(), str(DAY)],
        False: [__file__, "--without", jobs[False].model_dump_json()],
    }
    names = {True: "with", False: "without"}
    runs = run_by_turns({names[ledger]: commands[ledger] for ledger in (first, not first)})
    pair = {}
    for ledger, name in names.items():
        run = runs[name]
        tokens = run["prompt_tokens"] + run["output_tokens"]
        pair[ledger] = {
            "ledger": ledger,
            "seconds": round(run["seconds"], 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / run["seconds"], 1),
            "driver_cpu_seconds": run["driver_cpu_seconds"],
            "device": runs["with"]["device"],
            "versions": runs["with"]["versions"],
        }
    return pair


def answers(job: Job) -> dict[str, pl.DataFrame]:
    """All rows of all tasks, in order, without what varies from run to run."""
    return {
        name: pl.read_parquet(f"{job.output.uri}/{name}/**/*.parquet", hive_partitioning=True).drop(VARYING)
        for name in job.tasks
    }


def compare(left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """Asserts that the answers are equal but for their scores; returns how many of these differ, and by how much."""
    scores = differing = 0
    largest = 0.0
    for task, rows in left.items():
        others = right[task]
        differ = [name for name in rows.columns if not rows[name].equals(others[name])]
        not_scores = [name for name in differ if name not in SCORES]
        assert not not_scores, f"{task}: {', '.join(not_scores)} differ with and without ledger"
        if "label_scores" in rows.columns:
            here, there = _each_score(rows), _each_score(others)
            assert here["label"].equals(there["label"])
            gap = (here["score"] - there["score"]).abs()
            scores += len(gap)
            differing += int((gap > 0).sum())
            largest = max(largest, float(gap.max() or 0.0))  # type: ignore[arg-type]
    return {"scores": scores, "differing": differing, "largest_difference": largest}


def _each_score(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("label_scores").explode()).unnest("label_scores")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=300)
    options.add_argument("--repeats", type=int, default=12)
    options.add_argument("--without", metavar="JOB", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.without:
        run_unkept(Job.model_validate_json(arguments.without))
        return
    runs: list[dict[str, Any]] = []
    ratios: list[float] = []
    scores: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="docmill-durability-") as name:
        folder = Path(name)
        write_demo_days(
            str(folder / "documents"),
            seed=3,
            days=[DAY],
            documents_per_day=arguments.documents,
            shards_per_day=4,
        )
        for repeat in range(arguments.repeats):
            jobs = {True: job_in(folder, f"with-{repeat}"), False: job_in(folder, f"without-{repeat}")}
            pair = measure(jobs, first=bool(repeat % 2))
            assert pair[True]["tokens"] == pair[False]["tokens"]
            scores.append(compare(answers(jobs[True]), answers(jobs[False])))
            runs += pair.values()
            ratios.append(pair[True]["tokens_per_second"] / pair[False]["tokens_per_second"])
            print(f"repeat {repeat}: {pair[True]['tokens_per_second']:,.0f} tokens/s with ledger, "
                  f"{pair[False]['tokens_per_second']:,.0f} without: {ratios[-1]:.3f}; scores: {scores[-1]}",
                  flush=True)  # fmt: skip
    ratio = statistics.median(ratios)
    write_result(
        "durability",
        {
            "documents": arguments.documents,
            "answers": "equal row by row but for scores",
            "scores": scores,
            "ratios": spread(ratios),
            "driver_cpu_seconds": {
                name: spread([run["driver_cpu_seconds"] for run in runs if run["ledger"] is ledger])
                for name, ledger in (("with", True), ("without", False))
            },
            "target": TARGET,
            "runs": [
                {key: value for key, value in run.items() if key not in ("device", "versions")}
                for run in runs
            ],
        },
        ratio=ratio,
        met=ratio >= TARGET,
        out=arguments.out,
        device=runs[0]["device"],
        engine_versions=runs[0]["versions"],
    )


if __name__ == "__main__":
    main()
