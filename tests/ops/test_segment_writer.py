"""The segment writer: when it writes, what it forgets, and what reaches its worker when the store fails."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.records import Partition, Usage
from docmill.data.segments import read_segments
from docmill.engine.types import Completion, RequestError
from docmill.ops.segment_writer import SegmentWriter

ANSWER = Completion("r1", (1, 2), "stop", Usage(5, 0, 2))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path), Partition())


def keys(layout: Layout, unit_id: str) -> set[str]:
    return set(read_segments([layout.segments(unit_id)]))


def test_it_writes_after_so_many_answers_one_file_a_unit(layout: Layout) -> None:
    with SegmentWriter(layout, "w", seconds=600, num_answers=4) as writer:
        books = [writer.open_book(unit) for unit in ("u1", "u2")]
        for number in range(3):
            books[number % 2].record(f"k{number}", ANSWER)
            writer.write_if_due()
        writer.wait()
        assert keys(layout, "u1") == set()
        books[1].record("k3", ANSWER)
        writer.write_if_due()
        writer.wait()
        assert (keys(layout, "u1"), keys(layout, "u2")) == ({"k0", "k2"}, {"k1", "k3"})
        assert len(storage.list_files(layout.segments_folder)) == 2


def test_it_writes_after_so_many_seconds(layout: Layout) -> None:
    with SegmentWriter(layout, "w", seconds=0.05, num_answers=1000) as writer:
        writer.open_book("u").record("k", ANSWER)
        time.sleep(0.06)
        writer.write_if_due()
        writer.wait()
        assert keys(layout, "u") == {"k"}


def test_leaving_it_writes_what_is_left_also_when_an_error_is_the_reason(layout: Layout) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        SegmentWriter(layout, "w", seconds=600, num_answers=1000) as writer,
    ):
        writer.open_book("u").record("k", ANSWER)
        raise ZeroDivisionError
    assert keys(layout, "u") == {"k"}


def test_a_book_finds_what_workers_before_had_written_errors_too(layout: Layout) -> None:
    error = Completion("r2", error=RequestError("killed_engine", "twice"), attempts=2)
    with SegmentWriter(layout, "w1", seconds=600, num_answers=1000) as writer:
        writer.open_book("whole").record("k1", ANSWER)
        writer.open_book("half").record("k2", error)
    with SegmentWriter(layout, "w2", seconds=600, num_answers=1000) as writer:
        book = writer.open_book("half", ("whole",))
        found = [book.find(key) for key in ("k1", "k2", "k3")]
    completions = [known.completion if known else None for known in found]
    assert [(c.token_ids, c.usage, c.error, c.attempts) if c else None for c in completions] == [
        ((1, 2), Usage(5, 0, 2), None, 1),
        ((), Usage(), RequestError("killed_engine", "twice"), 2),
        None,
    ]


def test_what_is_forgotten_is_not_written_also_of_a_unit_that_was_split_meanwhile(layout: Layout) -> None:
    with SegmentWriter(layout, "w", seconds=600, num_answers=1000) as writer:
        book = writer.open_book("whole")
        book.record("k1", ANSWER)
        book.forget()
        writer.open_book("other").record("k2", ANSWER)
    assert (keys(layout, "whole"), keys(layout, "other")) == (set(), {"k2"})


def test_what_is_submitted_comes_after_what_came_before(layout: Layout) -> None:
    seen: list[set[str]] = []
    with SegmentWriter(layout, "w", seconds=0.0, num_answers=1) as writer:
        writer.open_book("u").record("k", ANSWER)
        writer.write_if_due()
        writer.submit(lambda: seen.append(keys(layout, "u")))
        writer.wait()
    assert seen == [{"k"}]


def test_a_write_that_fails_is_raised_to_the_worker(layout: Layout) -> None:
    def failing() -> None:
        raise OSError("full")

    writer = SegmentWriter(layout, "w", seconds=600, num_answers=1000)
    with pytest.raises(OSError, match="full"), writer:
        writer.submit(failing)
        writer.wait()


def test_while_a_slow_store_writes_answers_are_collected_into_one_file(layout: Layout) -> None:
    stored = threading.Event()
    with SegmentWriter(layout, "w", seconds=0.0, num_answers=1) as writer:
        writer.submit(lambda: stored.wait(30) and None)
        book = writer.open_book("u")
        for number in range(100):
            book.record(f"k{number}", ANSWER)
            writer.write_if_due()
        assert writer.num_waiting == 1
        stored.set()
        writer.wait()
        writer.write_if_due()
        writer.wait()
        assert len(keys(layout, "u")) == 100
        assert len(storage.list_files(layout.segments_folder)) == 1
