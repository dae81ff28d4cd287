"""Stops a run that costs too much, takes too long, or mostly fails: the job's `budget`. Nothing is lost by it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from docmill.data.ledger import Beat, Ledger
from docmill.ops.job import Job

LOOK_SECONDS = 5.0  # between two readings of what the workers say
MIN_ANSWERS = 50  # before a share of failures means something; at the end it counts whatever their number


class Brake:
    """Asked again and again by whoever drives the run."""

    def __init__(self, job: Job, ledger: Ledger):
        self._job, self._budget, self._ledger = job, job.budget, ledger
        self._started = time.monotonic()
        self._looked = float("-inf")
        self._beats: Sequence[Beat] = ()
        self._watching = any(limit is not None for limit in self._budget.model_dump().values())

    def reason(self, *, at_the_end: bool = False) -> str | None:
        """Why to stop now; None to go on."""
        if not self._watching:
            return None
        if at_the_end or time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._beats = self._ledger.read_beats(self._ledger.view().beats)
        reasons = (self._failed(at_the_end), *(() if at_the_end else (self._hours(), self._usd())))
        return next((reason for reason in reasons if reason), None)

    def _hours(self) -> str | None:
        limit, hours = self._budget.max_hours, (time.monotonic() - self._started) / 3600
        if limit is None or hours < limit:
            return None
        return f"budget.max_hours: this run has taken {hours:.2f} hours of {limit:g}"

    def _usd(self) -> str | None:
        limit = self._budget.max_usd
        if limit is None:
            return None
        usd = 0.0
        for beat in self._beats:
            engine = beat.figures.get("engine")
            price = self._job.usd_per_hour(engine["device"]) if engine else None
            if price is not None:
                usd += beat.seconds / 3600 * price
        if usd < limit:
            return None
        return f"budget.max_usd: ${usd:.4f} of ${limit:g} are spent, runs that did not end included"

    def _failed(self, at_the_end: bool) -> str | None:
        limit = self._budget.max_failed_share
        answers = sum(beat.figures.get("answers", 0) for beat in self._beats)
        failed = sum(beat.figures.get("failed", 0) for beat in self._beats)
        if limit is None or not answers or (answers < MIN_ANSWERS and not at_the_end):
            return None
        if failed / answers <= limit:
            return None
        return f"budget.max_failed_share: {failed} of {answers} answers failed, more than {limit:.1%}"
