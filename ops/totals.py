"""Sums over tasks and days: what `docmill report` prints."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from docmill.ops.daily_figures import TaskDay


@dataclass(frozen=True, slots=True)
class Totals:
    """Of some rows of `ops.daily_figures`. A document that several tasks were asked about counts once."""

    documents: int
    ok: int  # this and the next two: answers, one for each document and task
    failed: int
    skipped: int
    requests: int
    spared_requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    engine_seconds: float
    usd: float | None  # of the days that have a price; None where none has
    usd_per_1000_documents: float | None  # of the same days
    usd_expected: float | None  # of the days for which `docmill plan` was asked before
    usd_of_expected: float | None  # what these days cost

    @property
    def failed_share(self) -> float:
        """Of all answers."""
        answers = self.ok + self.failed + self.skipped
        return self.failed / answers if answers else 0.0

    @property
    def over_estimate(self) -> float | None:
        """By which share it cost more than expected; below zero: less. None where nothing was expected."""
        if not self.usd_expected or self.usd_of_expected is None:
            return None
        return self.usd_of_expected / self.usd_expected - 1


def add_up(rows: Collection[TaskDay]) -> Totals:
    """Of all these rows."""
    priced = [row for row in rows if row.usd is not None]
    expected = [row for row in priced if row.usd_expected is not None]
    usd, num_priced = _usd(priced), _num_documents(priced)
    return Totals(
        documents=_num_documents(rows),
        ok=sum(row.ok for row in rows),
        failed=sum(row.failed for row in rows),
        skipped=sum(row.skipped for row in rows),
        requests=sum(row.requests for row in rows),
        spared_requests=sum(row.spared_requests for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        engine_seconds=sum(row.engine_seconds for row in rows),
        usd=usd,
        usd_per_1000_documents=usd / num_priced * 1000 if usd is not None and num_priced else None,
        usd_expected=sum(row.usd_expected or 0.0 for row in expected) if expected else None,
        usd_of_expected=_usd(expected),
    )


def add_up_by_task(rows: Collection[TaskDay]) -> dict[str, Totals]:
    """Of each task, in the order in which they first come."""
    return {
        task: add_up([row for row in rows if row.task == task])
        for task in dict.fromkeys(row.task for row in rows)
    }


def _num_documents(rows: Collection[TaskDay]) -> int:
    by_day: dict[str, int] = {}
    for row in rows:
        by_day[row.partition] = max(by_day.get(row.partition, 0), row.documents)
    return sum(by_day.values())


def _usd(rows: Collection[TaskDay]) -> float | None:
    return sum(row.usd or 0.0 for row in rows) if rows else None
