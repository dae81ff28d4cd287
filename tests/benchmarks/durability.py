"""What durability costs: one job on the real vLLM, inline, with the ledger and without it.

    .venv/bin/python tests/benchmarks/durability.py [--documents 200] [--repeats 12] [--out tests/benchmarks/results]

Each run loads the engine anew, so that none finds another's prefixes in the cache, and writes into an empty output;
pairs come in changing order (ABBA).
The figure is tokens per second from the loaded model to the last byte written, planning and assembling included: the
median of the pairs' ratios. A shared machine varies by more than what is looked for, so the seconds that the driver's
process computes are told too: they are what the ledger adds, and hardly vary.

Answers are compared row by row, all columns but the time and what the cache held. Texts, labels and counts must be
equal. Scores may differ where other requests shared a step (a sum of floats in another order): how many and by how
much is in the result.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from measuring import DEMO_TASKS, parser, spread, write_result
from without_ledger import run_without_ledger

from docmill.data import storage
from docmill.data.demo.days import write_demo_days
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition

DAY = date(2026, 11, 20)
TARGET = 0.97
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


def measure(job: Job, tokenizer: ModelTokenizer, *, ledger: bool) -> dict[str, Any]:
    """One run with an engine of its own."""
    partition = job.partition(str(DAY))
    storage.delete_folder(job.output.uri)  # what the run before has left for later ones is in there
    engine = start_engine(job.model, job.engine)
    try:
        engine.wait_until_loaded()
        started, computed = time.perf_counter(), time.process_time()
        if ledger:
            report = run_partition(job, partition, engine=engine, tokenizer=tokenizer)
            prompt, output = report.computed_tokens.prompt, report.computed_tokens.output
        else:
            prompt, output = run_without_ledger(job, partition, engine=engine, tokenizer=tokenizer)
        seconds, driver_cpu_seconds = time.perf_counter() - started, time.process_time() - computed
        info = engine.info
    finally:
        engine.close()
    return {
        "ledger": ledger,
        "seconds": round(seconds, 3),
        "driver_cpu_seconds": round(driver_cpu_seconds, 3),
        "tokens": prompt + output,
        "tokens_per_second": round((prompt + output) / seconds, 1),
        "device": info.device,
        "versions": info.versions,
    }


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
    options.add_argument("--documents", type=int, default=200)
    options.add_argument("--repeats", type=int, default=12)
    arguments = options.parse_args()
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
        jobs = {True: job_in(folder, "with"), False: job_in(folder, "without")}
        tokenizer = ModelTokenizer(jobs[True].model)
        for repeat in range(arguments.repeats):
            order = (True, False) if repeat % 2 else (False, True)
            pair = {ledger: measure(jobs[ledger], tokenizer, ledger=ledger) for ledger in order}
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
