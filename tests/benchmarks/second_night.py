"""What a night costs whose documents are nearly those of the night before: the real vLLM, 5 % of the texts changed.

    .venv/bin/python tests/benchmarks/second_night.py [--documents 1000] [--changed 0.05]

Both nights are the same job with the same settings, each with an engine loaded for it. The figure is the tokens that
the second night's engine computed, prompts and answers, over the first night's. The answers of every unchanged row
must equal the first night's in every column but the day, the time and the cached tokens.
"""

from __future__ import annotations

import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from measuring import DEMO_TASKS, parser, write_result

from docmill.data.demo.days import write_demo_days
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition

NIGHTS = (date(2026, 11, 20), date(2026, 11, 21))
SHARDS = 12
TARGET = 0.07
VARYING = ["dt", "produced_at", "cached_tokens"]


def write_second_night(source: Path, changed_share: float) -> list[str]:
    """The first night's shards again, some rows with the texts of other documents; returns the ids of those."""
    first, second = (source / f"dt={night}" for night in NIGHTS)
    other = source.with_name("others")
    num_rows = sum(pl.read_parquet(path).height for path in first.glob("*.parquet"))
    write_demo_days(str(other), seed=999, days=[NIGHTS[1]], documents_per_day=num_rows)
    texts = pl.read_parquet(f"{other}/**/*.parquet", hive_partitioning=False)["text"].to_list()
    step = round(1 / changed_share)
    changed, number = [], 0
    for path in sorted(first.glob("*.parquet")):
        rows = pl.read_parquet(path, hive_partitioning=False).to_dicts()
        for row in rows:
            if number % step == 0:
                row["text"] = texts[number]
                changed.append(row["doc_id"])
            number += 1
        second.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_parquet(second / path.name)
    return changed


def run_night(job: Job, night: date, tokenizer: ModelTokenizer) -> dict[str, Any]:
    """Its figures."""
    started = time.perf_counter()
    report = run_partition(job, job.partition(str(night)), tokenizer=tokenizer)
    computed = report.computed_tokens
    return {
        "night": str(night),
        "seconds": round(time.perf_counter() - started, 2),
        "seconds_without_loading": round(report.seconds.wall - report.seconds.model_load, 2),
        "engine_seconds": round(report.seconds.engine, 2),
        "engine_tokens": computed.prompt - computed.cached + computed.output,
        "requests": report.requests,
        "reused_requests": sum(task.reused_requests for task in report.tasks.values()),
        "duplicate_requests": sum(task.duplicate_requests for task in report.tasks.values()),
        "machine": report.machine.device,
        "versions": report.versions,
    }


def answers(job: Job, task: str, night: date, changed: list[str]) -> pl.DataFrame:
    """Of the unchanged rows."""
    rows = pl.read_parquet(f"{job.output.uri}/{task}/dt={night}/*.parquet", hive_partitioning=True)
    return rows.filter(~pl.col("doc_id").is_in(changed)).drop(VARYING).sort("doc_id")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=1000)
    options.add_argument("--changed", type=float, default=0.05)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="docmill-second-night-") as name:
        folder = Path(name)
        source = folder / "documents"
        write_demo_days(
            str(source), seed=3, days=NIGHTS[:1], documents_per_day=arguments.documents, shards_per_day=SHARDS
        )
        changed = write_second_night(source, arguments.changed)
        job = Job.model_validate(
            {
                "name": "second_night",
                "source": {"uri": str(source), "carry": ["reference_label"]},
                "output": {"uri": f"{folder}/answers"},
                "tasks": DEMO_TASKS,
            }
        )
        tokenizer = ModelTokenizer(job.model)
        nights = [run_night(job, night, tokenizer) for night in NIGHTS]
        for task in job.tasks:
            before, after = (answers(job, task, night, changed) for night in NIGHTS)
            assert before.height == arguments.documents - len(changed) > 0
            differ = [column for column in before.columns if not before[column].equals(after[column])]
            assert not differ, f"{task}: {', '.join(differ)} of unchanged rows differ from the first night"
    ratio = nights[1]["engine_tokens"] / nights[0]["engine_tokens"]
    device, engine_versions = nights[0]["machine"], nights[0]["versions"]
    write_result(
        "second_night",
        {
            "documents": arguments.documents,
            "changed_documents": len(changed),
            "answers": "unchanged rows equal in every column but " + ", ".join(VARYING),
            "target": TARGET,
            "nights": [
                {key: value for key, value in night.items() if key not in ("machine", "versions")}
                for night in nights
            ],
        },
        ratio=ratio,
        met=ratio <= TARGET,
        out=arguments.out,
        device=device,
        engine_versions=engine_versions,
    )


if __name__ == "__main__":
    main()
