"""The real corpus: descriptions of the installed distributions, through the bundled job, on the real vLLM."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from docmill.ops.partition_job import run_partition
from docmill.ops.sources import ensure_source
from docmill.pipelines.job_files import load_job

if TYPE_CHECKING:
    from docmill.engine.vllm_engine import VllmEngine


@pytest.mark.vllm
@pytest.mark.slow
def test_every_distribution_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vllm_engine: VllmEngine
) -> None:
    monkeypatch.setenv("DOCMILL_HOME", str(tmp_path))
    job = load_job("distributions")
    ensure_source(job)
    report = run_partition(job, job.partition(None), engine=vllm_engine)
    names = sorted({distribution.name for distribution in metadata.distributions()})
    assert report.documents == len(names) > 100
    assert not report.failed_shards
    for task, of_task in report.tasks.items():
        answers = pl.read_parquet(f"{job.output.uri}/{task}/**/*.parquet")
        assert answers["name"].to_list() == names
        counts = of_task.counts
        assert counts.rows == counts.ok + counts.failed + counts.skipped == len(names)
        assert counts.ok > 0.8 * len(names), of_task.errors
        unexplained = answers.filter((pl.col("status") != "ok") & pl.col("error").is_null())
        assert unexplained.is_empty()
    print(f"{report.documents} documents, {report.requests} requests, {report.seconds.engine:.0f} s of vLLM")
