"""What `docmill plan` expects of the real vLLM, beside what then comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from end_to_end.recorder import DAY

from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.estimate import estimate_partition
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.probe import probe

if TYPE_CHECKING:
    from docmill.engine.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm


def test_a_probe_of_some_documents_foretells_the_run_over_all(
    tmp_path: Path, vllm_engine: VllmEngine, demo_job: Callable[..., Job], demo_tokenizer: ModelTokenizer
) -> None:
    """Tokens closely; seconds within a factor of two, since neighbours on the machine come and go."""
    job = demo_job(tmp_path, documents=400, seed=77)
    partition = job.partition(DAY)
    assert estimate_partition(job, partition, tokenizer=demo_tokenizer).usd is None
    probe(job, partition, num_documents=250, engine=vllm_engine, tokenizer=demo_tokenizer)
    estimate = estimate_partition(job, partition, tokenizer=demo_tokenizer)
    report = run_partition(job, partition, engine=vllm_engine, tokenizer=demo_tokenizer)
    for name, task in report.tasks.items():
        expected = estimate.tasks[name]
        assert expected.requests == pytest.approx(task.requests, rel=0.02)
        prompt_tokens = task.tokens.prompt - task.spared_tokens.prompt
        assert expected.prompt_tokens == pytest.approx(prompt_tokens, rel=0.05)
        output_tokens = task.tokens.output - task.spared_tokens.output
        assert expected.output_tokens == pytest.approx(output_tokens, rel=0.15)
    assert report.estimate == estimate
    assert estimate.wall_seconds is not None
    assert 0.5 < estimate.wall_seconds.expected / report.seconds.wall < 2
