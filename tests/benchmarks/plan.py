"""How far the price before a run is from the bill after it, over jobs of different shapes on the real vLLM.

    .venv/bin/python tests/benchmarks/plan.py [--documents 3000] [--shapes short,long,...]

Each shape is a job with a source and an output of its own, so nothing is known of it: `docmill plan` measures on a
sample (its usual probe), and says what the run will cost; then the job runs. The error is expected / billed
- 1 in money, that is in wall time of one engine with loading, planning and writing. The ratio is the median of the
errors' sizes.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring import parser, write_result
from reference_job import DAY, write_documents

from docmill.data.demo import LABELS
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.estimate import estimate_partition
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.probe import PROBE_DOCUMENTS, probe

MEDIAN_TARGET, WORST_TARGET = 0.10, 0.20
LABEL = {"kind": "classify", "labels": list(LABELS)}
TRANSLATE = {"kind": "translate"}
SUMMARY = {"kind": "summarize", "max_output_tokens": 64}
QUESTION = {
    "kind": "generate",
    "instruction": "What does the customer want, and for which order?",
    "max_output_tokens": 200,
    "long_documents": "each",
}
# Tokens of the middle document, share of duplicates, tasks, and documents as a share of those asked for.
SHAPES: dict[str, tuple[int, float, dict[str, Any], float]] = {
    "short": (60, 0.0, {"english": TRANSLATE, "topics": LABEL, "summaries": SUMMARY}, 1.0),
    "long": (500, 0.0, {"topics": LABEL, "summaries": SUMMARY, "wishes": QUESTION}, 0.6),
    "labels": (300, 0.0, {"topics": LABEL}, 1.5),
    "translations": (100, 0.0, {"english": TRANSLATE}, 1.0),
    "duplicates": (150, 0.4, {"summaries": SUMMARY, "wishes": QUESTION}, 1.0),
    "questions": (300, 0.0, {"wishes": QUESTION}, 1.0),
}


def job_in(folder: Path, tasks: dict[str, Any]) -> Job:
    """With a price, so that there is a bill."""
    return Job.model_validate(
        {
            "name": "priced",
            "source": {"uri": str(folder / "documents")},
            "output": {"uri": str(folder / "answers")},
            "chunking": {"max_tokens": 512},
            "tasks": tasks,
            "prices": {"usd_per_hour": {"cpu": 1.0}},
        }
    )


def measure(shape: str, num_documents: int, tokenizer: ModelTokenizer) -> dict[str, Any]:
    """One job: expected, billed, and what made the difference."""
    median, duplicate_share, tasks, share = SHAPES[shape]
    with tempfile.TemporaryDirectory(prefix="docmill-plan-") as name:
        folder = Path(name)
        corpus = write_documents(
            folder,
            num_documents=round(num_documents * share),
            duplicate_share=duplicate_share,
            seed=21,
            median=median,
        )
        job = job_in(folder, tasks)
        partition = job.partition(str(DAY))
        probe(job, partition, tokenizer=tokenizer)
        estimate = estimate_partition(job, partition, tokenizer=tokenizer)
        report = run_partition(job, partition, tokenizer=tokenizer)
    assert report.estimate == estimate
    assert estimate.usd is not None
    assert estimate.wall_seconds is not None
    assert report.cost.usd is not None
    came = {
        name: getattr(report.tokens, name) - getattr(report.spared_tokens, name)
        for name in ("prompt", "cached", "output")
    }
    return {
        "shape": shape,
        "corpus": corpus,
        "expected_usd": estimate.usd.expected,
        "range_usd": [estimate.usd.low, estimate.usd.high],
        "billed_usd": report.cost.usd,
        "error": round(estimate.usd.expected / report.cost.usd - 1, 4),
        "within_range": estimate.usd.low <= report.cost.usd <= estimate.usd.high,
        "expected_seconds": round(estimate.wall_seconds.expected, 2),
        "billed_seconds": round(report.seconds.wall, 2),
        "expected_tokens": {name: estimate.tokens(f"{name}_tokens") for name in came},
        "tokens": came,
        "device": report.machine.device,
        "versions": report.versions,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--documents", type=int, default=3000, help="ten times the probe, or it would foretell itself"
    )
    options.add_argument("--shapes", default=",".join(SHAPES))
    arguments = options.parse_args()
    tokenizer = ModelTokenizer(Job.model_fields["model"].default)
    jobs = []
    for shape in arguments.shapes.split(","):
        jobs.append(measure(shape, arguments.documents, tokenizer))
        shown = {name: value for name, value in jobs[-1].items() if name not in ("versions", "corpus")}
        print(shown, flush=True)
    errors = [abs(job["error"]) for job in jobs]
    median, worst = statistics.median(errors), max(errors)
    write_result(
        "plan",
        {
            "jobs": [
                {name: value for name, value in job.items() if name not in ("device", "versions")}
                for job in jobs
            ],
            "probe_documents": PROBE_DOCUMENTS,
            "median_error": median,
            "worst_error": worst,
            "targets": {"median_error": MEDIAN_TARGET, "worst_error": WORST_TARGET},
        },
        ratio=median,
        met=len(jobs) >= len(SHAPES) and median <= MEDIAN_TARGET and worst <= WORST_TARGET,
        out=arguments.out,
        device=jobs[0]["device"],
        engine_versions=jobs[0]["versions"],
    )


if __name__ == "__main__":
    main()
