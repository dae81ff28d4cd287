"""Which settings of a job change its answers, and which change what is known of its speed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from docmill.ops.job import Job
from docmill.ops.profile import engine_key


def job(**engine: Any) -> Job:
    return Job.model_validate(
        {
            "name": "tickets",
            "source": {"uri": "documents", "partition_key": None},
            "output": {"uri": "answers"},
            "engine": engine,
            "tasks": {"english": {"kind": "translate"}},
        }
    )


@pytest.mark.parametrize(
    ("engine", "other_answers", "other_speed"),
    [
        ({"quantization": "int8"}, True, True),
        ({"dtype": "bfloat16"}, True, True),
        ({"extra": {"kv_cache_dtype": "fp8"}}, True, True),
        ({"kernels": "off"}, False, True),  # they round otherwise, as another batch does
        ({"max_num_seqs": 8}, False, True),
        ({"max_restarts": 9}, False, False),
    ],
)
def test_what_a_setting_of_the_engine_changes(
    engine: dict[str, Any], other_answers: bool, other_speed: bool
) -> None:
    assert (job(**engine).settings_hash("english") != job().settings_hash("english")) == other_answers
    assert (engine_key(job(**engine), "model") != engine_key(job(), "model")) == other_speed


def test_a_setting_that_is_new_does_not_make_known_answers_unknown() -> None:
    """Those of jobs that do not have it: its name is in nothing that is hashed."""
    assert set(json.loads(job().engine_settings)) == {"kind", "dtype", "max_model_len", "seed", "extra"}
