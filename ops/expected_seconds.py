"""How long one engine will take for expected requests, by what its steps have cost so far (`ops.profile`)."""

from __future__ import annotations

from collections.abc import Collection

from docmill.ops.expected import Range
from docmill.ops.expected_steps import ExpectedRequest, num_steps, work_by_task
from docmill.ops.profile import EngineProfile

UNKNOWN_LENGTHS = 0.5, 2.0  # range of an answer's length where no run has shown it


def engine_seconds(
    engine: EngineProfile, requests: list[ExpectedRequest], unknown: Collection[str]
) -> tuple[Range, dict[str, float]]:
    """What the requests take of one engine, and each task's share of it.

    Answers of tasks that no run has shown may be half or twice as long.
    """

    def seconds_of(requests: list[ExpectedRequest]) -> dict[str, float]:
        """By task; a step is paid by the sequences in it."""
        work, steps = work_by_task(requests), num_steps(requests, engine.limits)
        num_sequences = sum(task["sequences"] for task in work.values())
        return {
            name: engine.costs.seconds({**task, "one": steps * task["sequences"] / num_sequences})
            for name, task in work.items()
        }

    expected = seconds_of(requests)
    total = sum(expected.values())
    shortest = longest = total
    if unknown:
        shortest, longest = (
            sum(
                seconds_of(
                    [
                        request.answered_longer(factor) if request.task in unknown else request
                        for request in requests
                    ]
                ).values()
            )
            for factor in UNKNOWN_LENGTHS
        )
    shares = {name: seconds / total for name, seconds in expected.items()} if total else {}
    return Range(low=shortest * engine.low, expected=total, high=longest * engine.high), shares
