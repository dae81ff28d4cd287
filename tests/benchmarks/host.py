"""What everything but the engine can do: the pipeline with an engine that answers at once, Parquet to Parquet.

    .venv/bin/python tests/benchmarks/host.py [--documents 10000 100000 1000000] [--repeats 3] [--processes 2]

Documents of two short messages (some 120 tokens), three tasks. As many `docmill run` as the machine has cores share
each run through the ledger, as those of as many GPUs would; they are timed from when all have started to the manifest.
The smallest size is also run by one alone. Each is a process of its own, so that a peak of memory is that of one run;
the largest size runs once. Stages' seconds are of all processes and threads: they overlap. `free_tokeniser` is the
second size once more with a tokeniser that makes up as many token ids in no time: what a faster one could give at the
most. The ratio is that of the peaks of memory, largest size to smallest.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from itertools import islice
from typing import Any

import polars as pl
import pyarrow as pa
from measuring import parser, write_result

from docmill.data.demo.corpus import demo_documents
from docmill.data.layout import join
from docmill.data.shards import ShardWriter
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition

DAY = date(2026, 11, 20)
SHARDS = 8
DOCUMENTS_PER_SECOND = 5000
MEMORY_GROWTH = 1.5
CHARACTERS_PER_TOKEN = 3.0  # of the demo model, over these texts
FREE_IDS = [*range(300, 1000)]


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


class FreeTokenizer(ModelTokenizer):
    """As many tokens as the demo model's makes of such texts on average, and no time to find them."""

    def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
        """The first tokens tell texts apart, so that equal ones alone are duplicates."""
        found = []
        for text in texts:
            number, ids = hash(text), FREE_IDS[: round(len(text) / CHARACTERS_PER_TOKEN)]
            ids[:3] = [FREE_IDS[number // 700**place % 700] for place in range(3)]
            found.append(ids)
        return found


def write_documents(folder: str, num_documents: int) -> None:
    """A day in eight shards; each document is two messages of the demo corpus."""
    schema = pa.schema([(name, pa.string()) for name in ("doc_id", "text", "language")])
    for shard in range(SHARDS):
        first, end = (num_documents * number // SHARDS for number in (shard, shard + 1))
        messages = demo_documents(seed=1, start=2 * first, num_documents=2 * (end - first))
        uri = join(folder, "documents", f"dt={DAY}", f"part-{shard:04}.parquet")
        with ShardWriter(uri, schema) as writer:
            while pairs := list(islice(zip(messages, messages, strict=False), 10_000)):
                columns = [
                    [one.doc_id for one, _ in pairs],
                    [f"{one.text}\n\n{other.text}" for one, other in pairs],
                    [one.language for one, _ in pairs],
                ]
                arrays = [pa.array(column, pa.string()) for column in columns]
                writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
            writer.commit()


def run_one(job: Job, *, free: bool) -> None:
    """In a process of its own: waits for a line, runs the job, and prints what it took as JSON."""
    tokenizer = (FreeTokenizer if free else ModelTokenizer)(job.model)
    print("ready", flush=True)
    sys.stdin.readline()
    computed = time.process_time()
    report = run_partition(job, job.partition(str(DAY)), tokenizer=tokenizer)
    print(json.dumps({
        "documents": report.documents,
        "ok": [task.counts.ok for task in report.tasks.values()],
        "cpu_seconds": time.process_time() - computed,
        "stage_seconds": {name: seconds for name, seconds in report.seconds.model_dump().items() if seconds},
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


def run_together(job: dict[str, Any], num_processes: int, *, free: bool) -> dict[str, Any]:
    """The job by so many processes that share it through the ledger, from the moment when all have started."""
    command = [sys.executable, __file__, "--job", json.dumps(job), *(["--free"] if free else [])]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(num_processes)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        begun = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [process.communicate()[0].splitlines()[-1] for process in processes]
        seconds = time.perf_counter() - begun
        assert all(process.returncode == 0 for process in processes)
    ran = [json.loads(end) for end in ends]
    (documents,) = {run["documents"] for run in ran}
    thousands = documents / 1000
    assert all(run["ok"] == [documents] * 3 for run in ran)
    return {
        "documents": documents,
        "documents_per_second": round(documents / seconds, 1),
        "cpu_seconds_per_1000": round(sum(run["cpu_seconds"] for run in ran) / thousands, 4),
        # The report is of all workers.
        "stage_seconds_per_1000": {
            name: round(total / thousands, 4) for name, total in ran[0]["stage_seconds"].items()
        },
        "peak_mib": round(max(run["peak_mib"] for run in ran)),
    }


def measure(num_documents: int, num_processes: int, repeats: int, *, free: bool = False) -> dict[str, Any]:
    """One size: the median run, and all rates."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="docmill-host-") as folder:
        write_documents(folder, num_documents)
        texts = pl.scan_parquet(f"{folder}/documents/**/*.parquet").head(1000).collect()["text"].to_list()
        lengths = [
            len(ids) for ids in ModelTokenizer(Job.model_validate(job_in(folder)).model).encode_data(texts)
        ]
        for repeat in range(repeats):
            job = job_in(folder) | {"output": {"uri": f"{folder}/answers-{repeat}"}}
            runs.append(run_together(job, num_processes, free=free))
            assert runs[-1]["documents"] == num_documents
            print(runs[-1], flush=True)
    runs.sort(key=lambda run: run["documents_per_second"])
    rates = [run["documents_per_second"] for run in runs]
    return runs[len(runs) // 2] | {
        "processes": num_processes,
        "median_tokens": statistics.median(lengths),
        "all_documents_per_second": rates,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--job", help=argparse.SUPPRESS)
    options.add_argument("--free", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.job:
        run_one(Job.model_validate_json(arguments.job), free=arguments.free)
        return
    sizes = []
    for number, size in enumerate(sorted(arguments.documents), 1):
        repeats = arguments.repeats if number < len(arguments.documents) else 1
        sizes.append(measure(size, arguments.processes, repeats))
    alone = measure(sizes[0]["documents"], 1, arguments.repeats)
    free = measure(
        sizes[min(1, len(sizes) - 1)]["documents"], arguments.processes, arguments.repeats, free=True
    )
    growth = sizes[-1]["peak_mib"] / sizes[0]["peak_mib"]
    slowest = min(size["documents_per_second"] for size in sizes)
    write_result(
        "host",
        {
            "sizes": sizes,
            "one_process": alone,
            "free_tokeniser": free,
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
