"""What everything but the engine can do: the pipeline with an engine that answers at once, Parquet to Parquet.

    .venv/bin/python tests/benchmarks/host.py [--documents 10000 100000 1000000] [--repeats 3]

Short documents, three tasks. Each run is a process of its own, so that a peak of memory is that of one run; the
largest size runs once. `seconds` are those of the stages, each on its own thread: they overlap, and their sum is more
than the wall time. The ratio is that of the peaks of memory, largest size to smallest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from typing import Any

import polars as pl
from measuring import parser, write_result

from docmill.data.demo.days import write_demo_days
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition

DAY = date(2026, 11, 20)
DOCUMENTS_PER_SECOND = 5000
MEMORY_GROWTH = 1.5


def job_in(folder: str) -> dict[str, Any]:
    return {
        "name": "host",
        "source": {"uri": f"{folder}/documents", "carry": ["language"]},
        "output": {"uri": f"{folder}/answers"},
        "engine": {"kind": "fake"},
        "tasks": {
            "translations": {"kind": "translate"},
            "classifications": {"kind": "classify", "labels": ["delivery", "billing", "account access"]},
            "summaries": {"kind": "summarize"},
        },
    }


def run_one(job: Job) -> None:
    """In a process of its own: its figures, as JSON."""
    tokenizer = ModelTokenizer(job.model)
    computed = time.process_time()
    report = run_partition(job, job.partition(str(DAY)), tokenizer=tokenizer)
    thousands = report.documents / 1000
    print(json.dumps({
        "documents": report.documents,
        "ok": [task.counts.ok for task in report.tasks.values()],
        "documents_per_second": round(report.documents / report.seconds.wall, 1),
        "cpu_seconds_per_1000": round((time.process_time() - computed) / thousands, 3),
        "stage_seconds_per_1000": {
            name: round(seconds / thousands, 4) for name, seconds in report.seconds.model_dump().items() if seconds
        },
        "peak_mib": round(report.peak_memory_mib),
    }))  # fmt: skip


def measure(num_documents: int, repeats: int) -> dict[str, Any]:
    """One size: the median run, and all rates."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="docmill-host-") as folder:
        write_demo_days(
            f"{folder}/documents", seed=1, days=[DAY], documents_per_day=num_documents, shards_per_day=8
        )
        texts = pl.scan_parquet(f"{folder}/documents/**/*.parquet").head(1000).collect()["text"].to_list()
        tokens = [
            len(ids) for ids in ModelTokenizer(Job.model_validate(job_in(folder)).model).encode_data(texts)
        ]
        for repeat in range(repeats):
            job = job_in(folder) | {"output": {"uri": f"{folder}/answers-{repeat}"}}
            done = subprocess.run(
                [sys.executable, __file__, "--job", json.dumps(job)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            assert runs[-1]["documents"] == num_documents
            assert runs[-1]["ok"] == [num_documents] * 3
    rates = sorted(run["documents_per_second"] for run in runs)
    median = next(run for run in runs if run["documents_per_second"] == rates[len(rates) // 2])
    return median | {"median_tokens": statistics.median(tokens), "all_documents_per_second": rates}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--job", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.job:
        run_one(Job.model_validate_json(arguments.job))
        return
    sizes = []
    for number, size in enumerate(sorted(arguments.documents), 1):
        sizes.append(measure(size, arguments.repeats if number < len(arguments.documents) else 1))
        print(sizes[-1], flush=True)
    growth = sizes[-1]["peak_mib"] / sizes[0]["peak_mib"]
    slowest = min(size["documents_per_second"] for size in sizes)
    write_result(
        "host",
        {
            "sizes": sizes,
            "documents_per_second": slowest,
            "target_documents_per_second": DOCUMENTS_PER_SECOND,
            "target_memory_growth": MEMORY_GROWTH,
        },
        ratio=growth,
        met=slowest >= DOCUMENTS_PER_SECOND and growth <= MEMORY_GROWTH,
        out=arguments.out,
    )


if __name__ == "__main__":
    main()
