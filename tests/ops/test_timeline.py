"""What the report says of the engine's time: places that stood empty, why, and points over the run."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Load, Request, Sampling
from docmill.ops.timeline import MAX_POINTS, IdleCause, Timeline


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class HeldEngine(FakeEngine):
    """With four places, and a load that the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, max_num_seqs=4)
        self.shown = Load()

    @property
    def load(self) -> Load:
        return self.shown


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


def fill(engine: FakeEngine, number: int) -> None:
    for position in range(number):
        engine.submit(Request(str(position), [1, 2], Sampling(1)))


def test_empty_places_count_for_the_cause_that_held_while_they_were_empty(
    clock: Clock, engine: HeldEngine
) -> None:
    timeline = Timeline(engine, clock=clock)
    clock.now += 2  # nothing was fed yet: the whole engine, starved
    fill(engine, 3)
    timeline.look("writing")
    clock.now += 4  # a quarter of it
    fill(engine, 5)
    timeline.look("draining")
    clock.now += 8  # full
    engine.completions(0)
    timeline.look("draining")
    clock.now += 16  # all of it
    timeline.look("draining")
    expected: dict[IdleCause, float] = {"starved": 2.0, "writing": 1.0, "draining": 16.0}
    assert timeline.idle == pytest.approx(expected)
    assert timeline.seconds == pytest.approx(30)


def test_points_are_a_second_apart_and_count_from_the_beginning(clock: Clock, engine: HeldEngine) -> None:
    engine.shown = Load(num_prompt_tokens=1000, num_output_tokens=100)  # of a run before
    timeline = Timeline(engine, clock=clock)
    for eighth in range(25):
        engine.shown = Load(4, eighth, 0.5, 1000 + 10 * eighth, 100 + eighth)
        timeline.look("starved")
        clock.now += 0.125
    points = timeline.points()
    assert [point["seconds"] for point in points] == [0, 1, 2, 3]
    assert points[-1]["num_prompt_tokens"] == 10 * points[-1]["num_waiting"]
    assert points[-1]["num_output_tokens"] == points[-1]["num_waiting"]
    assert (points[-1]["num_running"], points[-1]["kv_cache_used"]) == (4, 0.5)


def test_a_long_run_keeps_few_points_over_all_of_it(clock: Clock, engine: HeldEngine) -> None:
    timeline = Timeline(engine, clock=clock)
    for _ in range(20_000):
        timeline.look("starved")
        clock.now += 1.0
    seconds = [point["seconds"] for point in timeline.points()]
    assert MAX_POINTS / 2 <= len(seconds) <= MAX_POINTS
    assert seconds[0] == 0
    assert seconds[-1] > 19_000
    gaps = {round(after - before) for before, after in pairwise(seconds)}
    assert max(gaps) <= 2 * min(gaps)


def test_the_load_of_an_engine_goes_on_where_the_one_before_has_died() -> None:
    dead = Load(64, 100, 0.9, 5000, 700)
    assert Load(1, 2, 0.1, 10, 20).after(dead) == Load(1, 2, 0.1, 5010, 720)
