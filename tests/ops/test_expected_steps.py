"""The steps that requests will take. That vLLM takes so many is in engine/test_vllm_engine.py."""

from __future__ import annotations

import pytest

from docmill.ops.expected_steps import EngineLimits, ExpectedRequest, num_steps, work_by_task

NO_LIMITS = EngineLimits(10**6, 10**6, 10**9)


def asked(num_computed: int, num_output: float, num_cached: int = 0, task: str = "t") -> ExpectedRequest:
    return ExpectedRequest(task, num_computed, num_cached, num_output)


@pytest.mark.parametrize(
    ("requests", "limits", "steps"),
    [
        ([], NO_LIMITS, 0),
        ([asked(100, 1)] * 3, NO_LIMITS, 1),
        ([asked(100, 7), asked(50, 4)], NO_LIMITS, 7),
        # Two places for three: the third begins when the first has ended.
        ([asked(10, 5), asked(10, 9), asked(10, 3)], EngineLimits(2, 10**6, 10**9), 9),
        ([asked(10, 5), asked(10, 9), asked(10, 6)], EngineLimits(2, 10**6, 10**9), 11),
        # 250 tokens of prompt in steps of 100, then 3 more of the answer.
        ([asked(250, 4)], EngineLimits(8, 100, 10**9), 3 + 3),
        # Beside one that is being answered, 99 are left of the second step: none for the third.
        ([asked(100, 4), asked(99, 1), asked(1, 1)], EngineLimits(8, 100, 10**9), 4),
        # Room for one at a time.
        ([asked(60, 10)] * 3, EngineLimits(8, 1000, 100), 30),
        # Larger than the cache says: vLLM would refuse it, and this must end.
        ([asked(500, 2)], EngineLimits(8, 1000, 100), 2),
        # Cached tokens need neither steps nor room of their own.
        ([asked(10, 5, num_cached=500)] * 4, EngineLimits(8, 40, 60), 5),
    ],
)
def test_steps_are_those_of_vllms_scheduler(
    requests: list[ExpectedRequest], limits: EngineLimits, steps: int
) -> None:
    assert num_steps(requests, limits) == steps


def test_work_is_counted_as_steps_hold_it() -> None:
    """A prompt of 40 tokens, 32 of them cached, and 5 answered: one step of 8, then four of one."""
    work = work_by_task([asked(8, 5, num_cached=32), asked(100, 1, task="labels")])
    assert work["t"] == {
        "tokens": 8 + 4,
        "sequences": 5,
        "context": 40 + 41 + 42 + 43,
        "pairs": 8 * (32 + 4),
    }
    assert work["labels"] == {"tokens": 100, "sequences": 1, "context": 0, "pairs": 100 * 50}
