"""One worker's claims on units: takes the next one, keeps them alive, notices when one is lost or was split.

A unit belongs to the worker with its latest claim, as long as that worker beats. A worker that is gone (no beat for a
lease, or its process is no more on this machine) loses its units to whoever comes next. When no unit is free, the
second half of what another worker has not begun becomes a unit of its own and is taken over. Two workers may then
compute the same rows for a moment; the first done mark counts, so nothing is emitted twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from docmill.data.ledger import Beat, Ledger, View, process_is_gone, this_host
from docmill.data.plan import Unit

BEATS_A_LEASE = 6
MAX_FAILED_CLAIMS = 8  # in a row, before looking again at what is free
MIN_STOLEN_SECONDS = 5.0  # of estimated work that is left: less is not worth a second engine's reading of it


@dataclass
class Held:
    """A unit that this worker works on. `unit` shrinks when another worker takes its second half."""

    unit: Unit
    number: int  # of the claim
    next_row: int
    lost: bool = False


class Claims:
    """Used by three threads: one asks for units, one works on them, and one here beats. Use as a context manager."""

    def __init__(
        self,
        ledger: Ledger,
        worker: str,
        *,
        lease_seconds: float,
        figures: Callable[[Beat], Beat] = lambda beat: beat,
        committed: Callable[[], bool] = lambda: False,
    ):
        self.ledger, self.worker = ledger, worker
        self.lease_seconds = lease_seconds
        self.error: BaseException | None = None  # of the beating thread
        self.changed = (
            threading.Event()
        )  # a unit was finished: there may be something new to claim, or all is done
        self.none_free = False  # as of the last `take`: what is left is worked on, by this worker or another
        self.num_rows_elsewhere = 0  # of units that others, or earlier runs, have done
        self._figures, self._committed = figures, committed
        self._mine: set[str] = set()
        self._held: dict[str, Held] = {}  # by the id of the unit as it was claimed
        self._free: deque[Unit] = deque()  # of the last view, not tried yet
        self._last_opening = ""  # of the unit that was claimed last
        self._openings_elsewhere: set[str] = set()  # of units that others have, as of the last view
        self._next_numbers: dict[str, int] = {}
        self._over = False  # another run has finished the partition
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._started = time.monotonic()
        process = psutil.Process()
        self._me = Beat(worker, this_host(), process.pid, process.create_time())
        self._thread = threading.Thread(target=self._keep_beating, name="docmill-beat", daemon=True)

    def __enter__(self) -> Claims:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of everything: the last beat says so, and the next worker need not wait for the lease."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._held.clear()
        self.beat(ended=True)

    def take(self) -> Held | None:
        """Claim a unit. None where there is none to claim now; `all_done` tells whether to wait for one."""
        held = self._take()
        self.none_free = held is None
        return held

    def _take(self) -> Held | None:
        while True:
            held = self._claim_free()
            if held is not None:
                return held
            own = self._own_ids()  # before the view, or one that is finished meanwhile would look abandoned
            view = self.ledger.view()
            # Asked after the listing: a run that has ended has removed its ledger.
            if self._over or self._committed():
                return None
            units, claimed = self._look_around(view, own)
            if not self._free:
                return self._steal(units, claimed)

    def _claim_free(self) -> Held | None:
        """One of those that the last view showed as free. Gives up on them where most are somebody else's by now."""
        num_failed = 0
        while self._free and num_failed < MAX_FAILED_CLAIMS and not self._over:
            unit = self._next_free()
            number = self._next_numbers.pop(unit.id, 0)
            if self.ledger.claim(unit.id, number, self.worker):
                self._last_opening = unit.opening
                return self._hold(unit, number)
            self._openings_elsewhere.add(unit.opening)
            num_failed += 1
        self._free.clear()
        return None

    def _next_free(self) -> Unit:
        """One that begins as the last one did; else one that begins as none does that another worker has."""
        last = self._last_opening
        chosen = next((unit for unit in self._free if unit.opening and unit.opening == last), None)
        elsewhere = self._openings_elsewhere
        chosen = chosen or next(
            (unit for unit in self._free if not unit.opening or unit.opening not in elsewhere), self._free[0]
        )
        self._free.remove(chosen)
        return chosen

    def _look_around(self, view: View, own: set[str]) -> tuple[list[Unit], dict[str, Beat]]:
        """The units that are not done, and who of the living works on which."""
        units = self.ledger.units(view)
        self.num_rows_elsewhere = sum(
            unit.num_rows for unit in units if unit.id in view.done and unit.id not in self._mine
        )
        units = [unit for unit in units if unit.id not in view.done]
        claimed = self._claimed(units, view)
        for unit in units:  # ours by its claim, but we do not have it: marked as done once, and then reopened
            if unit.id in claimed and claimed[unit.id].worker == self.worker and own.isdisjoint(_line(unit)):
                del claimed[unit.id]
        self._openings_elsewhere = {
            unit.opening
            for unit in units
            if unit.opening and unit.id in claimed and claimed[unit.id].worker != self.worker
        }
        self._free = deque(unit for unit in units if unit.id not in claimed and unit.id not in own)
        self._next_numbers = {unit.id: view.claims.get(unit.id, -1) + 1 for unit in self._free}
        return units, claimed

    def all_done(self) -> bool:
        """Whether every unit of the plan is done, or another run has written the manifest meanwhile."""
        view = self.ledger.view()
        return (
            self._over or self._committed() or all(unit.id in view.done for unit in self.ledger.units(view))
        )

    def finishing(self, unit_id: str) -> None:
        """The unit is about to be marked as done by this worker."""
        self._mine.add(unit_id)

    def release(self, held: Held) -> None:
        """The unit is done, or given up."""
        with self._lock:
            self._held = {key: other for key, other in self._held.items() if other is not held}
        self.changed.set()

    def beat(self, *, ended: bool = False) -> None:
        """Say that this worker lives, then look what became of its units."""
        with self._lock:
            next_rows = {held.unit.id: held.next_row for held in self._held.values()}
            beat = replace(
                self._me, next_rows=next_rows, seconds=time.monotonic() - self._started, ended=ended
            )
            mine = dict(self._held)
        self.ledger.beat(self._figures(beat))
        if mine and self._committed():  # we were thought dead, and others have done it all
            self._over = True
            for key, held in mine.items():
                self._lose(key, held)
            return
        for key, held in mine.items():
            if not self._look(held):
                self._lose(key, held)

    def _look(self, held: Held) -> bool:
        """Notice what others have done to a unit; False where it is no longer ours."""
        at_row = self.ledger.split_row(held.unit.id)
        if at_row is None:
            return self.ledger.last_claim(held.unit.id) <= held.number
        left, _ = held.unit.split(at_row)
        last = self.ledger.last_claim(left.id)
        if last == 0 and self.ledger.claimant(left.id, 0) != self.worker:
            # Whoever split it meant the worker before us: he had looked before we took the unit over.
            if not self.ledger.claim(left.id, 1, self.worker):
                return False
            held.unit, held.number = left, 1
            return True
        held.unit, held.number = left, 0  # that claim was made by whoever split it, in our name
        return last <= 0

    def _lose(self, key: str, held: Held) -> None:
        held.lost = True
        with self._lock:
            self._held.pop(key, None)

    def _keep_beating(self) -> None:
        try:
            while not self._stopped.wait(self.lease_seconds / BEATS_A_LEASE):
                self.beat()
        except BaseException as error:  # noqa: BLE001 - reaches the worker, which looks at it
            self.error = error

    def _hold(self, unit: Unit, number: int) -> Held:
        held = Held(unit, number, unit.first_row)
        with self._lock:
            self._held[unit.id] = held
        return held

    def _own_ids(self) -> set[str]:
        with self._lock:
            return {held.unit.id for held in self._held.values()}

    def _claimed(self, units: list[Unit], view: View) -> dict[str, Beat]:
        """Units that somebody living works on, with that worker's beat."""
        numbers = [(unit.id, view.claims[unit.id]) for unit in units if unit.id in view.claims]
        claimants = self.ledger.claimants(numbers)
        others = {worker for worker in claimants.values() if worker in view.beats and worker != self.worker}
        now = view.beats.get(self.worker, max(view.beats.values(), default=0.0))
        living = {self.worker: self._me} | {
            beat.worker: beat
            for beat in self.ledger.read_beats(sorted(others))
            if not (beat.ended or now - view.beats[beat.worker] > self.lease_seconds or process_is_gone(beat))
        }
        return {unit_id: living[worker] for unit_id, worker in claimants.items() if worker in living}

    def _steal(self, units: list[Unit], claimed: dict[str, Beat]) -> Held | None:
        """Take the second half of the longest rest that another worker has not begun."""
        best: tuple[float, Unit, int] | None = None
        for unit in units:
            beat = claimed.get(unit.id)
            if beat is None or beat.worker == self.worker or unit.id not in beat.next_rows:
                continue
            rest = unit.end_row - beat.next_rows[unit.id]
            seconds = unit.estimated_seconds * rest / max(unit.num_rows, 1)
            if rest >= 2 and seconds >= MIN_STOLEN_SECONDS and (best is None or seconds > best[0]):
                best = seconds, unit, unit.end_row - math.floor(rest / 2)
        if best is None:
            return None
        _, unit, at_row = best
        left, right = unit.split(at_row)
        # Both halves are claimed before anybody can see them: the first in the name of who has it.
        self.ledger.claim(left.id, 0, claimed[unit.id].worker)
        if self.ledger.claim(right.id, 0, self.worker) and self.ledger.split(unit.id, at_row):
            return self._hold(right, 0)
        return None


def _line(unit: Unit) -> set[str]:
    """A unit and those it was split from: a worker may not know yet that it has a half only."""
    return {unit.id, *unit.ancestors}
