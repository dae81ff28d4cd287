"""The job that the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from end_to_end.recorder import DAY

from docmill.data.demo import LABELS
from docmill.ops.job import Job
from docmill.ops.sources import ensure_source


@pytest.fixture(scope="session")
def demo_job() -> Callable[..., Job]:
    """Makes the demo job over a small corpus below `root` (a folder or a bucket), and the corpus itself."""

    def make(root: str | Path, *, documents: int, seed: int = 4242, **settings: Any) -> Job:
        corpus = {
            "kind": "demo",
            "days": [DAY],
            "documents_per_day": documents,
            "shards_per_day": 3,
            "seed": seed,
        }
        job = Job.model_validate(
            {
                "name": "demo",
                "source": {
                    "uri": f"{root}/documents",
                    "carry": ["language", "reference_label"],
                    "generate": corpus,
                },
                "output": {"uri": f"{root}/answers"},
                "chunking": {"max_tokens": 128},
                "tasks": {
                    "translations": {"kind": "translate"},
                    "classifications": {"kind": "classify", "labels": list(LABELS)},
                    "summaries": {"kind": "summarize"},
                },
                "prices": {"usd_per_hour": {"cpu": 0.1}},
                **settings,
            }
        )
        ensure_source(job)
        return job

    return make
