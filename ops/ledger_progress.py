"""How far a partition is, read from its ledger alone: for drivers of workers elsewhere, and for `docmill status`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from docmill.data.errors import StorageNotFound
from docmill.data.ledger import Beat, Ledger, View, process_is_gone
from docmill.data.plan import Unit
from docmill.ops.progress import OnProgress, Progress

LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A partition's units at one moment."""

    num_units: int
    num_units_done: int
    num_units_claimed: int  # by workers that live
    num_documents: int
    num_documents_done: int  # of units done, and what living workers say of theirs
    beats: tuple[Beat, ...]  # of all workers since the last finish
    living: frozenset[str]
    last_beat_at: float | None  # on the store's clock
    estimated_seconds_left: float  # by the plan's own estimate, of one engine

    @property
    def num_units_left(self) -> int:
        """Neither done nor claimed."""
        return self.num_units - self.num_units_done - self.num_units_claimed


def read_standing(ledger: Ledger, *, lease_seconds: float, now: float | None = None) -> Standing:
    """By one listing and the workers' beats. `now` is the store's time; without it the newest beat's."""
    view = ledger.view()
    units = ledger.units(view)
    beats = tuple(ledger.read_beats(sorted(view.beats)))
    now = max(view.beats.values(), default=0.0) if now is None else now
    living = frozenset(
        beat.worker
        for beat in beats
        if not beat.ended and now - view.beats[beat.worker] <= lease_seconds and not process_is_gone(beat)
    )
    open_units = [unit for unit in units if unit.id not in view.done]
    claimed = [unit for unit in open_units if _claimant(ledger, view, unit) in living]
    rows_done = sum(unit.num_rows for unit in units if unit.id in view.done)
    rows_done += sum(_rows_begun(beat, open_units) for beat in beats if beat.worker in living)
    return Standing(
        num_units=len(units),
        num_units_done=len(units) - len(open_units),
        num_units_claimed=len(claimed),
        num_documents=ledger.plan.num_documents,
        num_documents_done=rows_done,
        beats=beats,
        living=living,
        last_beat_at=max(view.beats.values(), default=None),
        estimated_seconds_left=sum(unit.estimated_seconds for unit in open_units),
    )


class LedgerProgress:
    """Shows progress every few seconds to a driver whose workers are other processes."""

    def __init__(self, ledger: Ledger, on_progress: OnProgress, *, lease_seconds: float):
        self._ledger, self._on_progress, self._lease_seconds = ledger, on_progress, lease_seconds
        self._started = time.monotonic()
        self._looked = float("-inf")
        self._num_done = 0

    def show(self) -> bool:
        """Read the ledger, unless it was just read. Returns whether every unit was seen done."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        standing = read_standing(self._ledger, lease_seconds=self._lease_seconds)
        self._num_done = max(self._num_done, standing.num_documents_done)
        self._on_progress(
            Progress(
                stage="running" if standing.beats else "loading model",
                num_documents_done=self._num_done,
                num_documents_total=standing.num_documents,
                num_output_tokens=sum(beat.num_output_tokens for beat in standing.beats),
                num_prompt_tokens=sum(beat.num_prompt_tokens for beat in standing.beats),
                seconds=time.monotonic() - self._started,
            )
        )
        return standing.num_units_done == standing.num_units


def _rows_begun(beat: Beat, open_units: list[Unit]) -> int:
    """Rows of units that a worker has open, as far as its engine has them: those waiting in it are few."""
    begun = sum(
        max(0, beat.next_rows[unit.id] - unit.first_row) for unit in open_units if unit.id in beat.next_rows
    )
    return min(begun, beat.num_rows_done)


def _claimant(ledger: Ledger, view: View, unit: Unit) -> str | None:
    number = view.claims.get(unit.id)
    try:
        return None if number is None else ledger.claimant(unit.id, number)
    except StorageNotFound:  # another run has ended meanwhile and removed its ledger
        return None
