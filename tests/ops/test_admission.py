"""How many requests an engine gets at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Load
from docmill.ops.admission import LOOK_SECONDS, MOST_SHARE, Admission


class LoadedEngine(FakeEngine):
    """Takes 100 sequences, and runs as many as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, max_num_seqs=100)
        self.num_running = 0

    @property
    def load(self) -> Load:
        return Load(num_running=self.num_running)


class Clock:
    def __init__(self) -> None:
        self.now = 7.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answer(admission: Admission, clock: Clock, *, per_second: float, seconds: float) -> None:
    for _ in range(round(seconds / LOOK_SECONDS)):
        clock.now += LOOK_SECONDS
        admission.answered(round(per_second * LOOK_SECONDS))


def test_it_begins_with_a_full_engine_and_as_many_behind(clock: Clock) -> None:
    assert Admission(LoadedEngine(), None, clock=clock).max_in_flight == 200


def test_a_full_kv_cache_lets_fewer_in(clock: Clock) -> None:
    engine = LoadedEngine()
    admission = Admission(engine, None, clock=clock)
    engine.num_running = 30  # there is no room for the other 70
    answer(admission, clock, per_second=20, seconds=5)
    assert admission.max_in_flight == 130


def test_quick_answers_need_more_behind_them(clock: Clock) -> None:
    engine = LoadedEngine()
    admission = Admission(engine, None, clock=clock)
    engine.num_running = 100
    answer(admission, clock, per_second=200, seconds=2)
    assert admission.max_in_flight == 100 + 2 * 200
    answer(admission, clock, per_second=10_000, seconds=1)
    assert admission.max_in_flight == MOST_SHARE * 100
    answer(admission, clock, per_second=20, seconds=10)
    assert admission.max_in_flight == 200, "what was quick once is forgotten"


def test_an_engine_that_has_just_answered_all_has_room_for_all(clock: Clock) -> None:
    engine = LoadedEngine()
    admission = Admission(engine, None, clock=clock)
    answer(admission, clock, per_second=4, seconds=1)
    assert admission.max_in_flight == 200


def test_the_job_may_say_how_many(clock: Clock) -> None:
    engine = LoadedEngine()
    admission = Admission(engine, 9, clock=clock)
    answer(admission, clock, per_second=5000, seconds=3)
    assert admission.max_in_flight == 9
