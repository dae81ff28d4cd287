"""What an engine's process tells its parent, and when: at once where that matters, else by tenths of a second."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from docmill.engine.engine_host import GATHER_SECONDS, EngineHost
from docmill.engine.errors import EngineDied
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion

MOST = 64  # sequences of the engine


class Scripted(FakeEngine):
    """Has so many requests in flight, and finishes what it is told, step by step."""

    def __init__(self, num_in_flight: int, steps: list[list[str] | Exception]):
        super().__init__(max_num_seqs=MOST)
        self._in_flight, self._steps = num_in_flight, iter(steps)

    @property
    def num_in_flight(self) -> int:
        return self._in_flight

    def completions(self, timeout_seconds: float) -> list[Completion]:
        step = next(self._steps, None)
        if step is None:
            time.sleep(min(timeout_seconds, 0.01))
            return []
        if isinstance(step, Exception):
            raise step
        self._in_flight -= len(step)
        return [Completion(name) for name in step]


@pytest.fixture
def connection() -> Iterator[tuple[EngineHost, Connection]]:
    """A host, and its parent's end."""
    ours, theirs = Pipe()
    with ours, theirs:
        yield EngineHost(theirs), ours


def told(connection: Connection) -> list[list[str]]:
    """The ids in each message so far."""
    messages = []
    while connection.poll():
        messages.append([done.request_id for done in pickle.loads(connection.recv_bytes()).completions])
    return messages


def test_the_steps_of_a_full_engine_are_told_together(connection: tuple[EngineHost, Connection]) -> None:
    host, ours = connection
    started = time.monotonic()
    host.pass_on(Scripted(4 * MOST, [["a"], ["b", "c"], ["d"]]))
    assert GATHER_SECONDS <= time.monotonic() - started < 20 * GATHER_SECONDS
    assert told(ours) == [["a", "b", "c", "d"]]


def test_an_engine_that_may_want_for_requests_tells_each_step(
    connection: tuple[EngineHost, Connection],
) -> None:
    host, ours = connection
    engine = Scripted(MOST, [["a"], ["b"]])
    host.pass_on(engine)
    assert told(ours) == [["a"]]
    host.pass_on(engine)
    assert told(ours) == [["b"]]


def test_what_comes_fast_is_told_before_the_engine_runs_dry(
    connection: tuple[EngineHost, Connection],
) -> None:
    host, ours = connection
    quarter = [str(number) for number in range(MOST // 4)]
    host.pass_on(Scripted(4 * MOST, [quarter[:-1], quarter[-1:], ["later"]]))
    assert told(ours) == [quarter]


def test_what_had_finished_is_told_before_a_death(connection: tuple[EngineHost, Connection]) -> None:
    host, ours = connection
    with pytest.raises(EngineDied):
        host.pass_on(Scripted(4 * MOST, [["a"], EngineDied("out of luck", 3)]))
    assert told(ours) == [["a"]]
