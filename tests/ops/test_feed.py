"""Reading ahead in a thread: items in order, errors where they are taken, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from docmill.ops.feed import Ahead


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "docmill-feed"]


def test_items_come_in_order_and_then_none() -> None:
    with Ahead(iter("abc"), num_ahead=1) as ahead:
        taken = []
        while (item := ahead.take(10)) is not None:
            taken.append(item)
        assert (taken, ahead.exhausted) == (list("abc"), True)
        assert ahead.take(10) is None
    assert feed_threads() == []


def test_no_more_items_are_made_than_are_wanted_ahead() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for number in count():
            made.append(number)
            yield number

    with Ahead(numbers(), num_ahead=3) as ahead:
        assert [ahead.take(10) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(made) < 20
    assert feed_threads() == []


def test_without_waiting_there_may_be_none_yet() -> None:
    ready = threading.Event()

    def later() -> Iterator[str]:
        ready.wait(10)
        yield "now"

    with Ahead(later(), num_ahead=1) as ahead:
        assert ahead.take() is None
        assert not ahead.exhausted
        ready.set()
        assert ahead.take(10) == "now"


def test_what_it_raises_is_raised_where_it_is_taken_after_what_came_before() -> None:
    def failing() -> Iterator[str]:
        yield "first"
        raise ZeroDivisionError

    with Ahead(failing(), num_ahead=2) as ahead:
        assert ahead.take(10) == "first"
        with pytest.raises(ZeroDivisionError):
            ahead.take(10)
    assert feed_threads() == []
