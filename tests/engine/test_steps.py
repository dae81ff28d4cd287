"""What is noted of an engine's steps. That vLLM's are noted as they are is in test_vllm_engine.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from docmill.engine.steps import FEATURES, NUM_WARM_UP_STEPS, StepMeter, StepSums, features
from docmill.engine.types import Load


def scheduled(new: dict[str, tuple[int, int]], known: dict[str, tuple[int, int]]) -> Any:
    """As vLLM says it. By request: tokens computed before, and in this step."""
    numbers = {name: number for name, (_, number) in {**new, **known}.items()}
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=before) for name, (before, _) in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(known), num_computed_tokens=[before for before, _ in known.values()]
        ),
        num_scheduled_tokens=numbers,
        total_num_scheduled_tokens=sum(numbers.values()),
    )


@pytest.mark.parametrize(
    ("new", "known", "expected"),
    [
        ({}, {"a": (100, 1), "b": (30, 1)}, (1, 2, 2, 130, 0)),
        ({"c": (64, 40)}, {"a": (100, 1)}, (1, 41, 2, 100, 40 * (64 + 20))),
        # The rest of a long prompt, beside answers.
        ({}, {"a": (100, 1), "d": (512, 200)}, (1, 201, 2, 100, 200 * (512 + 100))),
        ({"c": (0, 8)}, {"d": (512, 2), "a": (7, 1)}, (1, 11, 3, 7, 8 * 4 + 2 * 513)),
    ],
)
def test_a_step_is_told_by_what_it_computes_and_reads(
    new: dict[str, tuple[int, int]], known: dict[str, tuple[int, int]], expected: tuple[float, ...]
) -> None:
    assert features(scheduled(new, known)) == expected


class Core:
    """An engine core that schedules what it is given, with or without a queue of batches."""

    def __init__(self, *, batch_queue: list[Any] | None = None):
        self.batch_queue = batch_queue
        self.next: Any = None
        self.scheduler = SimpleNamespace(schedule=lambda _throttle=False: self.next)


def step(core: Core, meter: StepMeter, num_tokens: int, seconds: float) -> None:
    core.next = scheduled({"a": (0, num_tokens)} if num_tokens else {}, {})
    assert core.scheduler.schedule(False) is core.next
    meter.ended(seconds)


def test_the_first_steps_are_left_out() -> None:
    core = Core()
    meter = StepMeter(core)
    for _ in range(NUM_WARM_UP_STEPS):
        step(core, meter, 1000, 9.0)
    assert meter.sums == StepSums()
    step(core, meter, 10, 0.5)
    step(core, meter, 30, 1.5)
    sums = meter.sums
    assert [sums.of(name) for name in (*FEATURES, "seconds")] == [2, 40, 2, 0, 50 + 450, 2.0]
    assert sums.of("seconds", "tokens") == sums.of("tokens", "seconds") == 5 + 45
    assert sums.of("tokens", "tokens") == 100 + 900


def test_a_step_that_scheduled_nothing_is_none() -> None:
    core = Core()
    meter = StepMeter(core)
    for _ in range(NUM_WARM_UP_STEPS + 1):
        step(core, meter, 10, 0.5)
    before = meter.sums
    step(core, meter, 0, 7.0)
    assert meter.sums == before
    step(core, meter, 10, 0.5)
    assert meter.sums.of("one") == 2


def test_with_a_queue_of_batches_time_belongs_to_the_step_before() -> None:
    core = Core(batch_queue=[])
    meter = StepMeter(core)
    for number in range(NUM_WARM_UP_STEPS + 4):  # the first has nothing before it
        step(core, meter, 100 * (number + 1), 0.1 * number)
    step(core, meter, 0, 0.1 * (NUM_WARM_UP_STEPS + 4))
    sums = meter.sums
    assert sums.of("one") == 4
    assert sums.of("tokens", "seconds") == pytest.approx(sum(100 * n * 0.1 * n for n in (4, 5, 6, 7)))


def test_sums_add_up_over_engines_and_runs() -> None:
    core = Core()
    meter = StepMeter(core)
    for number in range(8):
        step(core, meter, 10 + number, 1.0)
    one = meter.sums
    assert Load(steps=one).after(Load(steps=one)).steps.of("tokens") == 2 * one.of("tokens")
    assert one.plus(one, times=-1) == StepSums()
    assert one.plus(one, times=0.5).of("seconds") == 7.5
