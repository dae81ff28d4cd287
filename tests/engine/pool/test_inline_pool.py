"""The pool that is this process."""

import os
import threading

import pytest

from docmill.engine.errors import ModelError
from docmill.engine.pool.inline_pool import InlinePool
from docmill.engine.pool.types import LostWorker, PoolResult, WorkerContext


def test_the_work_runs_here_and_its_value_comes_back() -> None:
    here = (os.getpid(), threading.get_ident())
    result = InlinePool().run(
        lambda worker: (os.getpid(), threading.get_ident()), on_poll=list, stop=threading.Event()
    )
    assert result.values == [here]
    assert result.lost == ()
    assert str(os.getpid()) in result.results[0].name


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    error = ModelError("some/model", "it is not there")

    def work(worker: WorkerContext) -> None:
        raise error

    with pytest.raises(ModelError) as caught:
        InlinePool().run(work, on_poll=list, stop=threading.Event())
    assert caught.value is error


def test_the_work_polls_and_sees_that_the_caller_stops() -> None:
    stop = threading.Event()
    seen = []

    def on_poll() -> None:
        seen.append("poll")
        if len(seen) == 3:
            stop.set()

    def work(worker: WorkerContext) -> int:
        rounds = 0
        while not worker.stopping:
            worker.poll()
            rounds += 1
        return rounds

    assert InlinePool().run(work, on_poll=on_poll, stop=stop, poll_seconds=0).values == [3]


def test_polls_come_no_faster_than_asked_for() -> None:
    polls = []

    def work(worker: WorkerContext) -> None:
        for _ in range(1000):
            worker.poll()

    InlinePool().run(work, on_poll=lambda: polls.append(1), stop=threading.Event(), poll_seconds=60)
    assert len(polls) == 1


def test_a_result_shows_who_was_lost_and_why() -> None:
    result = PoolResult((), (LostWorker("host-12-0", "its node has died"),))
    assert "its node has died" in repr(result)
    assert result.values == []
