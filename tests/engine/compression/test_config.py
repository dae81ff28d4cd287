"""`model.compress`: what its settings may be, and what a model is known by."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from docmill.engine.compression.config import CompressConfig
from docmill.engine.compression.prune import PruneSettings
from docmill.ops.job import Job

JOB: dict[str, Any] = {
    "name": "tickets",
    "source": {"uri": "documents", "partition_key": None},
    "output": {"uri": "answers"},
    "tasks": {"english": {"kind": "translate"}},
}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recipe": "int4"}, "'auto', 'int8', 'fp8', 'w4a16', 'prune' or 'trim'"),
        ({"recipe": "int8", "ffn_share": 0.5}, "ffn_share: only with `recipe: prune`; this is 'int8'"),
        ({"recipe": "trim", "heal_steps": 0}, "heal_steps: only with `recipe: prune`; this is 'trim'"),
        ({"recipe": "prune", "heal_steps": -1}, "greater than or equal to 0"),
        ({"recipe": "prune", "formats": ["int8"]}, "formats: only with `recipe: auto`; this is 'prune'"),
        ({"keep_texts": "texts"}, "keep_texts: only with `recipe: trim`; this is 'auto'"),
        ({"max_drop": 0}, "greater than 0"),
        ({"sample": 10}, "greater than or equal to 40"),
        ({"samples": 1000}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        CompressConfig(**settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": {"compress": {"references": {"french": "x"}}}},
            "references: no task french; the job has english",
        ),
        ({"model": {"compress": {}}, "engine": {"quantization": "int8"}}, "keep one of them"),
    ],
)
def test_what_does_not_go_with_the_job_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Job.model_validate(JOB | changes)


def test_layers_alone_can_be_pruned_and_left_unhealed() -> None:
    config = CompressConfig(recipe="prune", ffn_share=0, layers=2, heal_steps=0)
    assert (config.ffn_share, config.layers, config.heal_steps) == (0, 2, 0)
    assert CompressConfig().heal_steps == PruneSettings().heal_steps


def test_a_model_is_known_by_its_source_and_settings_but_not_by_where_it_lies() -> None:
    plain = CompressConfig()
    others = [CompressConfig(recipe="int8"), CompressConfig(max_drop=0.02), CompressConfig(sample=500)]
    assert len({config.key("source") for config in (plain, *others)}) == 4
    assert plain.key("source") != plain.key("another")
    assert CompressConfig(out="s3://b/models").key("source") == plain.key("source")


def test_models_lie_below_the_jobs_output_and_a_jobs_answers_change_with_them() -> None:
    plain = Job.model_validate(JOB)
    job = Job.model_validate(JOB | {"model": {"compress": {"recipe": "int8"}}})
    assert job.model.compress is not None
    assert job.model.compress.out == "answers/_docmill/models"
    assert job.settings_hash("english") != plain.settings_hash("english")
    assert Job.model_validate(job.model_dump()) == job
