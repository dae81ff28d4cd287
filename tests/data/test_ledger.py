"""The ledger's files: who comes first, what a view shows, and what is left when another run removes it all."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.ledger import Beat, Done, Ledger, process_is_gone, remove_ledger, this_host
from docmill.data.plan import Plan, PlannedShard, Unit
from docmill.data.records import Partition

UNITS = [Unit("a", "v", 0, 10, 1.0), Unit("a", "v", 10, 10, 1.0)]
PLAN = Plan("job", "all", ["summaries"], "settings", [PlannedShard("a", "/a", 1, "v", 20)], UNITS)
FIRST, SECOND = UNITS


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Layout(str(tmp_path), Partition()), PLAN)


def again(ledger: Ledger) -> Ledger:
    """As another process has it."""
    return Ledger(ledger.layout, ledger.plan)


def test_of_many_that_claim_a_unit_one_gets_it(ledger: Ledger) -> None:
    won: list[str] = []
    barrier = threading.Barrier(8)

    def claim(worker: str) -> None:
        barrier.wait()
        if again(ledger).claim(FIRST.id, 0, worker):
            won.append(worker)

    threads = [threading.Thread(target=claim, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert ledger.claimant(FIRST.id, 0) == won[0]
    assert ledger.last_claim(FIRST.id) == 0
    assert ledger.last_claim(SECOND.id) == -1


def test_a_view_shows_the_latest_claims_beats_splits_and_marks(ledger: Ledger) -> None:
    ledger.begin("")
    ledger.claim(FIRST.id, 0, "w1")
    ledger.claim(FIRST.id, 1, "w2")
    ledger.beat(Beat("w1", this_host(), 1, 0.0))
    ledger.split(SECOND.id, 15)
    left, right = SECOND.split(15)
    ledger.finish(Done(left.id, "w1", {}, {}))
    view = again(ledger).view()
    assert view.claims == {FIRST.id: 1}
    assert view.beats.keys() == {"w1"}
    assert (view.splits, view.done) == ({SECOND.id}, {left.id})
    assert again(ledger).units(view) == [FIRST, left, right]


def test_a_unit_that_is_done_whole_counts_whole_though_it_was_split(ledger: Ledger) -> None:
    ledger.split(FIRST.id, 5)
    ledger.finish(Done(FIRST.id, "w1", {}, {}))
    assert ledger.units(ledger.view()) == [FIRST, SECOND]


def test_the_first_split_and_the_first_mark_count(ledger: Ledger) -> None:
    assert ledger.split(FIRST.id, 5)
    assert not again(ledger).split(FIRST.id, 7)
    assert again(ledger).split_row(FIRST.id) == 5
    assert ledger.finish(Done(FIRST.id, "w1", {"summaries": "/one"}, {}))
    assert not again(ledger).finish(Done(FIRST.id, "w2", {"summaries": "/two"}, {}))
    assert [done.worker for done in ledger.read_done([FIRST.id, SECOND.id])] == ["w1"]


def test_a_mark_without_its_answers_can_be_taken_back(ledger: Ledger) -> None:
    ledger.finish(Done(FIRST.id, "w1", {}, {}))
    ledger.reopen([FIRST.id, SECOND.id])
    assert ledger.view().done == frozenset()
    assert ledger.finish(Done(FIRST.id, "w2", {}, {}))


def test_beats_are_read_back_and_written_over(ledger: Ledger) -> None:
    for row in (3, 6):
        ledger.beat(
            Beat("w1", this_host(), 1, 2.0, next_rows={FIRST.id: row}, figures={"tokens": {"prompt": 1}})
        )
    (beat,) = ledger.read_beats(["w1", "gone"])
    assert beat.next_rows == {FIRST.id: 6}
    assert beat.figures == {"tokens": {"prompt": 1}}


def test_what_is_removed_between_listing_and_reading_is_not_there(ledger: Ledger) -> None:
    ledger.claim(FIRST.id, 0, "w1")
    ledger.split(SECOND.id, 15)
    view = ledger.view()
    remove_ledger(ledger.layout.ledger("settings"))
    late = again(ledger)
    assert late.claimant(FIRST.id, 0) is None
    assert late.units(view) == [FIRST, SECOND]
    assert late.read_beats(["w1"]) == []


def test_the_origin_is_what_the_first_run_said_and_outlives_the_rest(ledger: Ledger) -> None:
    assert ledger.begin("before").finished == "before"
    assert again(ledger).begin("after").finished == "before"
    ledger.finish(Done(FIRST.id, "w1", {}, {}))
    remove_ledger(ledger.layout.ledger("settings"))
    assert [file.name for file in storage.list_files(ledger.layout.ledger("settings"))] == ["origin.json"]
    assert again(ledger).begin("after").finished == "before"


def test_marks_go_before_all_else_when_a_ledger_is_removed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is left without its parts would stand for answers that nobody has."""
    removed: list[str] = []
    monkeypatch.setattr(storage, "delete_folder", lambda uri: removed.append(uri.rsplit("/", 1)[-1]))
    remove_ledger(ledger.layout.ledger("settings"))
    assert removed[0] == "done"


def test_a_folder_that_is_removed_under_a_write_is_made_again(ledger: Ledger) -> None:
    stop = threading.Event()

    def remove() -> None:
        while not stop.wait(0.03):
            shutil.rmtree(ledger.layout.ledgers_folder, ignore_errors=True)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for number in range(100):
            ledger.beat(Beat(f"w{number}", this_host(), 1, 0.0))
            ledger.claim(FIRST.id, number, "w")
    finally:
        stop.set()
        thread.join()


def test_a_process_of_this_machine_is_known_to_be_gone() -> None:
    me = psutil.Process()

    def beat(**changes: Any) -> Beat:
        return Beat(
            **{"worker": "w", "host": this_host(), "pid": me.pid, "pid_started": me.create_time(), **changes}
        )

    assert not process_is_gone(beat())
    assert process_is_gone(beat(pid_started=me.create_time() - 100)), (
        "its number was given to another process"
    )
    assert process_is_gone(beat(pid=2**22 + 1))
    assert not process_is_gone(beat(host="elsewhere", pid=2**22 + 1)), "of other machines nothing is known"
