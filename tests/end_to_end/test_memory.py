"""A partition of any size runs in the same memory: nothing that a run holds grows with the documents.

The fake engine answers at once, so this is also what everything but the model can do in a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from docmill.data.demo.days import write_demo_days

NUM_DOCUMENTS = 200_000
MAX_MIB = 1500
LABELS = ["delivery", "billing", "account access"]

# A process of its own: its peak is the run's. Loading the tokenizer alone takes some 400 MB.
RUN = """
import sys
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
job = Job.model_validate_json(sys.argv[1])
print(run_partition(job, job.partition("2026-11-20")).model_dump_json())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_thousand_documents_stay_below_the_limit(tmp_path: Path) -> None:
    write_demo_days(
        str(tmp_path / "documents"),
        seed=1,
        days=[date(2026, 11, 20)],
        documents_per_day=NUM_DOCUMENTS,
        shards_per_day=8,
    )
    job = {
        "name": "memory",
        "source": {"uri": str(tmp_path / "documents"), "carry": ["language", "reference_summary"]},
        "output": {"uri": str(tmp_path / "answers")},
        "engine": {"kind": "fake"},
        "tasks": {
            "translations": {"kind": "translate"},
            "classifications": {"kind": "classify", "labels": LABELS},
            "summaries": {"kind": "summarize"},
        },
    }
    finished = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=850,
    )
    report = json.loads(finished.stdout.splitlines()[-1])
    print(
        f"\n{NUM_DOCUMENTS:,} documents, {report['requests']:,} requests: peak {report['peak_memory_mib']:.0f} MiB, "
        f"{report['rates']['documents_per_second']:.0f} documents/s; seconds {report['seconds']}"
    )
    assert report["documents"] == NUM_DOCUMENTS
    assert all(task["counts"]["ok"] == NUM_DOCUMENTS for task in report["tasks"].values())
    assert report["peak_memory_mib"] < MAX_MIB
