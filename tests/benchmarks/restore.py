"""How long a killed run takes to go on, and in how much memory, with 10^4, 10^5 and 10^6 requests done.

    .venv/bin/python tests/benchmarks/restore.py [--requests 10000 100000 1000000] [--out tests/benchmarks/results]

The fake engine answers one task about every document until `--done` of them are done and the process is killed
(SIGKILL, by itself). A second process goes on; from its start of `run_partition` to the first new request is the
restore. Both are processes of their own, so a peak of memory is that of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from typing import Any

from measuring import parser, write_result

from docmill.data.demo.days import write_demo_days
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, Request
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import peak_memory_mib

DAY = date(2026, 11, 20)
MEMORY_GROWTH = 1.5  # from the smallest size to the largest: flat, but for the tables of the plan


class KilledAfter(FakeEngine):
    """Kills its process after so many completions."""

    def __init__(self, num_requests: int):
        super().__init__()
        self._left = num_requests

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """As many as there are."""
        taken = super().completions(timeout_seconds)
        self._left -= len(taken)
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return taken


class Watched(FakeEngine):
    """Notes when the first request comes, and how much memory the process has taken until then."""

    def __init__(self) -> None:
        super().__init__()
        self.first_at = 0.0
        self.peak_mib = 0.0
        self.num_requests = 0

    def submit(self, request: Request) -> None:
        """Answer it."""
        if not self.num_requests:
            self.first_at, self.peak_mib = time.perf_counter(), peak_memory_mib()
        self.num_requests += 1
        super().submit(request)


def part(name: str, job: Job, num_requests: int) -> None:
    """One of the two processes."""
    partition, tokenizer = (
        job.partition(str(DAY)),
        ModelTokenizer(job.model),
    )  # seconds of imports are not the restore
    if name == "killed":
        run_partition(job, partition, engine=KilledAfter(num_requests), tokenizer=tokenizer)
        return
    engine = Watched()
    started = time.perf_counter()
    report = run_partition(job, partition, engine=engine, tokenizer=tokenizer)
    print(json.dumps({
        "restore_seconds": round(engine.first_at - started, 3),
        "peak_mib_at_first_request": round(engine.peak_mib),
        "peak_mib_of_the_run": round(report.peak_memory_mib),
        "requests_asked_again_or_new": engine.num_requests,
        "documents": report.documents,
        "ok": report.tasks["topics"].counts.ok,
        "seconds_to_the_end": round(time.perf_counter() - started, 3),
    }))  # fmt: skip


def measure(num_requests: int, done_share: float) -> dict[str, Any]:
    """One size."""
    with tempfile.TemporaryDirectory(prefix="docmill-restore-") as name:
        write_demo_days(
            f"{name}/documents", seed=1, days=[DAY], documents_per_day=num_requests, shards_per_day=8
        )
        job = {
            "name": "restore",
            "source": {"uri": f"{name}/documents"},
            "output": {"uri": f"{name}/answers"},
            "engine": {"kind": "fake"},
            "prepare": {"max_chars": 200, "too_long": "truncate"},  # one request a document
            "tasks": {"topics": {"kind": "classify", "labels": ["delivery", "billing"]}},
        }
        command = [sys.executable, __file__, "--job", json.dumps(job)]
        killed = subprocess.run(
            [*command, "--part", "killed", "--requests", str(int(num_requests * done_share))], check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.returncode
        resumed = subprocess.run(
            [*command, "--part", "resumed", "--requests", "0"], check=True, stdout=subprocess.PIPE, text=True
        )
    figures = json.loads(resumed.stdout.splitlines()[-1])
    assert figures["documents"] == figures["ok"] == num_requests, "every document has one answer"
    return {"requests": num_requests, "requests_done": int(num_requests * done_share), **figures}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--requests", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--done", type=float, default=0.95, help="share of them done before the kill")
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--job", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.part:
        part(arguments.part, Job.model_validate_json(arguments.job), arguments.requests[0])
        return
    sizes = []
    for num_requests in arguments.requests:
        sizes.append(measure(num_requests, arguments.done))
        print(sizes[-1], flush=True)
    first, last = sizes[0], sizes[-1]
    growth = last["restore_seconds"] / max(first["restore_seconds"], 1e-3)
    times_as_many = last["requests"] / first["requests"]
    memory = last["peak_mib_at_first_request"] / first["peak_mib_at_first_request"]
    write_result(
        "restore",
        {
            "done_share": arguments.done,
            "sizes": sizes,
            "times_as_many_requests": times_as_many,
            "times_as_much_memory": round(memory, 3),
            "target_memory_growth": MEMORY_GROWTH,
        },
        ratio=growth,
        met=growth <= times_as_many and memory <= MEMORY_GROWTH,
        out=arguments.out,
    )


if __name__ == "__main__":
    main()
