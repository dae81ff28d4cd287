"""Claims: who works on what, who is thought gone, and what becomes of a unit that two want. Time is the test's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from docmill.data.errors import StorageUnreachable
from docmill.data.layout import Layout
from docmill.data.ledger import Beat, Done, Ledger, View
from docmill.data.plan import Plan, PlannedShard, Unit
from docmill.data.records import Partition
from docmill.ops.claims import Claims, Held

LEASE = 30.0
UNITS = [Unit("a", "v", 0, 100, 60.0), Unit("a", "v", 100, 100, 60.0)]
PLAN = Plan("job", "all", ["summaries"], "settings", [PlannedShard("a", "/a", 1, "v", 200)], UNITS)


class ClockedLedger(Ledger):
    """Beats are as old as `now` says."""

    now = 0.0
    beaten: dict[str, float]

    def beat(self, beat: Beat) -> None:
        super().beat(beat)
        self.beaten[beat.worker] = type(self).now

    def view(self) -> View:
        return replace(super().view(), beats=dict(self.beaten))


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., Claims]:
    """`worker("w1")` makes one that has said that it lives, and does nothing by itself."""
    beaten: dict[str, float] = {}
    ClockedLedger.now = 0.0

    def make(
        name: str, *, units: list[Unit] = UNITS, committed: Callable[[], bool] = lambda: False
    ) -> Claims:
        ledger = ClockedLedger(Layout(str(tmp_path), Partition()), replace(PLAN, units=units))
        ledger.beaten = beaten
        claims = Claims(ledger, name, lease_seconds=LEASE, committed=committed)
        claims.beat()
        return claims

    return make


def taken(claims: Claims) -> Held:
    held = claims.take()
    assert held is not None, "there was nothing to take"
    return held


def finish(claims: Claims, held: Held) -> None:
    claims.finishing(held.unit.id)
    claims.ledger.finish(Done(held.unit.id, claims.worker, {}, {}))
    claims.release(held)


def test_each_unit_goes_to_one_worker_in_the_plans_order(worker: Callable[..., Claims]) -> None:
    one, two = worker("w1"), worker("w2")
    assert [taken(one).unit, taken(two).unit] == UNITS
    assert not one.all_done()


def test_units_of_a_worker_that_ended_are_free_at_once(worker: Callable[..., Claims]) -> None:
    one, two = worker("w1"), worker("w2")
    taken(one)
    one.beat(ended=True)
    assert [taken(two).unit, taken(two).unit] == UNITS


def test_units_of_a_silent_worker_are_free_after_a_lease_and_lost_to_it(
    worker: Callable[..., Claims],
) -> None:
    one, two = worker("w1"), worker("w2")
    held = taken(one)
    taken(two)
    ClockedLedger.now = LEASE - 1
    two.beat()
    assert two.take() is None, "it may only be slow"
    ClockedLedger.now = LEASE + 1
    two.beat()
    again = taken(two)
    assert (again.unit, again.number) == (held.unit, 1)
    assert not held.lost
    one.beat()
    assert held.lost


def test_when_nothing_is_free_the_second_half_of_the_longest_rest_is_taken(
    worker: Callable[..., Claims],
) -> None:
    one, two, three = worker("w1"), worker("w2"), worker("w3")
    first, second = taken(one), taken(two)
    first.next_row, second.next_row = 60, 120
    one.beat(), two.beat()
    half = taken(three)
    assert (half.unit.first_row, half.unit.end_row) == (160, 200)
    two.beat()
    assert not second.lost
    assert (second.unit.first_row, second.unit.end_row) == (100, 160)
    finish(three, half), finish(two, second), finish(one, first)
    assert one.all_done()


def test_a_small_rest_is_left_to_who_has_it(worker: Callable[..., Claims]) -> None:
    one, two = worker("w1", units=UNITS[:1]), worker("w2", units=UNITS[:1])
    held = taken(one)
    held.next_row = 95  # three seconds by the estimate
    one.beat()
    assert two.take() is None
    assert not two.all_done()


def test_of_two_that_want_the_same_half_one_gets_it(worker: Callable[..., Claims]) -> None:
    one = worker("w1", units=UNITS[:1])
    taken(one)
    one.beat()
    thieves = [worker(name, units=UNITS[:1]) for name in ("w2", "w3")]
    views = [thief.ledger.view() for thief in thieves]
    for thief, view in zip(thieves, views, strict=True):
        thief.ledger.view = lambda view=view: view  # type: ignore[method-assign]  # both look before either acts
    halves = [thief.take() for thief in thieves]
    assert [half is not None for half in halves] == [True, False]


def test_a_half_whose_split_was_never_recorded_is_nobodys(worker: Callable[..., Claims]) -> None:
    """The thief died between its claims and the split."""
    one, two = worker("w1", units=UNITS[:1]), worker("w2", units=UNITS[:1])
    held = taken(one)
    one.beat()
    left, right = held.unit.split(50)
    two.ledger.claim(left.id, 0, "w1")
    two.ledger.claim(right.id, 0, "dead thief")
    assert two.take() is None
    one.beat()
    assert not held.lost
    assert held.unit == UNITS[0]
    finish(one, held)
    assert two.all_done()


def test_a_split_meant_for_the_worker_before_leaves_the_first_half_to_the_one_after(
    worker: Callable[..., Claims],
) -> None:
    """A thief looked while the first worker still lived, and acted after the second had taken over."""
    one, two, thief = (worker(name, units=UNITS[:1]) for name in ("w1", "w2", "w3"))
    taken(one)
    one.beat()
    view = thief.ledger.view()
    ClockedLedger.now = LEASE + 1
    two.beat()
    held = taken(two)
    thief.ledger.view = lambda: view  # type: ignore[method-assign]
    half = taken(thief)
    two.beat()
    assert not held.lost
    assert held.unit.end_row == half.unit.first_row
    del thief.ledger.view  # type: ignore[method-assign]
    thief.beat()
    assert thief.take() is None, "the first half is a living worker's"
    one.beat()
    finish(two, held), finish(thief, half)
    assert thief.all_done()


def test_a_worker_that_comes_back_after_all_was_finished_drops_what_it_had(
    worker: Callable[..., Claims],
) -> None:
    finished: list[bool] = []
    one = worker("w1", committed=lambda: bool(finished))
    held = taken(one)
    finished.append(True)
    one.beat()
    assert held.lost
    assert one.take() is None
    assert one.all_done()


def test_a_unit_whose_mark_was_taken_back_is_done_again_by_the_worker_that_had_it(
    worker: Callable[..., Claims],
) -> None:
    """Everybody else waits for it, because it lives."""
    one = worker("w1", units=UNITS[:1])
    held = taken(one)
    finish(one, held)
    one.ledger.reopen([held.unit.id])
    assert worker("w2", units=UNITS[:1]).take() is None
    again = taken(one)
    assert (again.unit, again.number) == (held.unit, 1)


def test_what_a_worker_has_is_not_taken_for_abandoned_while_it_is_split(
    worker: Callable[..., Claims],
) -> None:
    one, two = worker("w1", units=UNITS[:1]), worker("w2", units=UNITS[:1])
    held = taken(one)
    one.beat()
    taken(two)
    assert one.take() is None, "the first half is what it has, though it has not looked yet"
    one.beat()
    assert not held.lost


def test_a_worker_goes_on_to_the_next_free_unit_when_another_was_faster(
    worker: Callable[..., Claims],
) -> None:
    units = [Unit("a", "v", row, 1, 1.0) for row in range(6)]
    one, two = worker("w1", units=units), worker("w2", units=units)
    firsts = [taken(one), taken(two)]
    assert [held.unit.first_row for held in firsts] == [0, 1]
    rest = [taken(claims).unit.first_row for claims in (one, two, one, two)]
    assert sorted(rest) == [2, 3, 4, 5]


def test_units_that_begin_alike_stay_with_the_worker_that_has_one(worker: Callable[..., Claims]) -> None:
    units = [
        Unit("a", "v", row, 1, 1.0, (), opening) for row, opening in enumerate(["x", "x", "x", "y", "y", ""])
    ]
    one, two = worker("w1", units=units), worker("w2", units=units)
    taken_by: dict[str, list[int]] = {"w1": [], "w2": []}
    for claims in (one, two, one, two, one):
        taken_by[claims.worker].append(taken(claims).unit.first_row)
        claims.beat()
    assert taken_by == {"w1": [0, 1, 2], "w2": [3, 4]}
    assert taken(two).unit.first_row == 5


def test_where_all_units_begin_alike_no_worker_stands_idle(worker: Callable[..., Claims]) -> None:
    units = [Unit("a", "v", row, 1, 1.0, (), "x") for row in range(4)]
    one, two = worker("w1", units=units), worker("w2", units=units)
    rows = [taken(claims).unit.first_row for claims in (one, two, one, two)]
    assert sorted(rows) == [0, 1, 2, 3]


def test_it_beats_by_itself_and_says_so_when_it_ends(tmp_path: Path) -> None:
    ledger = Ledger(Layout(str(tmp_path), Partition()), PLAN)
    with Claims(ledger, "w1", lease_seconds=0.6) as claims:
        taken(claims)
        before = ledger.view().beats["w1"]
        deadline = time.monotonic() + 20
        while ledger.view().beats["w1"] == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (beat,) = ledger.read_beats(["w1"])
        assert not beat.ended
        assert beat.next_rows == {UNITS[0].id: 0}
    (beat,) = ledger.read_beats(["w1"])
    assert beat.ended
    assert not any(thread.name == "docmill-beat" for thread in threading.enumerate())


def test_a_beat_that_fails_is_told_to_the_worker(tmp_path: Path) -> None:
    class Unreachable(Ledger):
        gone = False

        def beat(self, beat: Beat) -> None:
            if self.gone and not beat.ended:
                raise StorageUnreachable("/ledger", "no answer")
            super().beat(beat)

    ledger = Unreachable(Layout(str(tmp_path), Partition()), PLAN)
    with Claims(ledger, "w1", lease_seconds=0.1) as claims:
        ledger.gone = True
        deadline = time.monotonic() + 20
        while claims.error is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert isinstance(claims.error, StorageUnreachable)


def test_a_worker_whose_work_was_finished_by_others_takes_nothing_though_it_is_begun_again(
    worker: Callable[..., Claims],
) -> None:
    finished = True
    one = worker("w1", committed=lambda: finished)
    one._held["x"] = Held(UNITS[0], 0, 0)  # thought dead while it had this
    one.beat()
    finished = False  # another run, over one shard more, has begun
    assert one.take() is None
    assert one.all_done()
