"""Makes finished requests durable within seconds, on a thread of its own so that the engine never waits for the store.

The same thread does a worker's other writing (`submit`), so that what concerns one unit happens in order.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count, starmap
from typing import Self

from docmill.data.layout import Layout, join
from docmill.data.segments import FinishedRequest, read_segments, write_segment
from docmill.engine.types import Completion, RequestError
from docmill.ops.dialogues import Known

Recorded = tuple[str, Completion, bool]  # request key, the answer, whether an equal request had got it


class UnitBook:
    """What is known of one unit: from segments of runs that did not end, from finished runs, and from this one."""

    def __init__(
        self,
        unit_id: str,
        known: dict[str, FinishedRequest],
        reused: dict[str, FinishedRequest],
        writer: SegmentWriter,
    ):
        # For later runs, by text and key: equal rows leave one. None where nothing is to be kept.
        self.kept: dict[tuple[int, str], Completion] | None = None
        # What rows of other units were answered that rows of this one are like, see `ops.representatives`.
        self.elsewhere: Mapping[str, FinishedRequest] = {}
        self._given: set[str] = set()
        self._unit_id, self._known, self._reused, self._writer = unit_id, known, reused, writer

    def forget(self) -> None:
        """The unit's answers are complete: its requests need not be written any more."""
        self._writer.forget(self._unit_id)

    def find(self, request_key: str) -> Known | None:
        """The completion of a request that was answered before; its request id is empty."""
        if (found := self._known.get(request_key)) is not None:
            duplicate = found.duplicate or request_key in self._given
            self._given.add(request_key)
            return Known(_completion(found, all_cached=duplicate), "duplicate" if duplicate else "engine")
        if (found := self._reused.get(request_key)) is not None:
            return Known(_completion(found), "finished run")
        if (found := self.elsewhere.get(request_key)) is not None:
            return Known(_completion(found, all_cached=True), "duplicate")
        return None

    def record(self, request_key: str, completion: Completion, *, duplicate: bool = False) -> None:
        """Have it written with the next segment."""
        self._writer.add(self._unit_id, (request_key, completion, duplicate))


class DocumentBook:
    """One document's part of its unit's book: what is kept of it is kept under its text."""

    __slots__ = ("_keep", "_text_key", "_unit")

    def __init__(self, unit: UnitBook, text_key: int, *, keep: bool = True):
        self._unit, self._text_key, self._keep = unit, text_key, keep

    def find(self, request_key: str) -> Known | None:
        """As in the unit's book."""
        return self._unit.find(request_key)

    def record(self, request_key: str, completion: Completion, *, duplicate: bool = False) -> None:
        """As in the unit's book."""
        self._unit.record(request_key, completion, duplicate=duplicate)

    def keep(self, request_key: str, completion: Completion) -> None:
        """For runs to come, when the unit is done."""
        if self._keep and self._unit.kept is not None:
            self._unit.kept[self._text_key, request_key] = completion


def _completion(found: FinishedRequest, *, all_cached: bool = False) -> Completion:
    usage = found.usage
    if all_cached:
        usage = replace(usage, num_cached_tokens=usage.num_prompt_tokens)
    error = (
        RequestError(found.error_reason, found.error_message or "")
        if found.error_reason is not None
        else None
    )
    return Completion(
        "", found.token_ids, found.finish_reason, usage, found.label_logprobs, error, found.attempts
    )


def finished_request(request_key: str, completion: Completion, duplicate: bool = False) -> FinishedRequest:
    """The completion as it is stored."""
    error = completion.error
    return FinishedRequest(
        request_key,
        completion.token_ids,
        completion.finish_reason,
        completion.usage,
        completion.label_logprobs,
        error.reason if error else None,
        error.message if error else None,
        completion.attempts,
        duplicate,
    )


class SegmentWriter:
    """Collects finished requests by unit and writes them every few seconds. Use as a context manager.

    Leaving it writes what is left, also when an error or an interruption is the reason.
    """

    def __init__(self, layout: Layout, worker: str, *, seconds: float, num_answers: int):
        self.seconds = 0.0  # spent writing, by its thread
        self._layout, self._worker = layout, worker
        self._seconds, self._num_answers = seconds, num_answers
        # Made rows of only where they are written: a unit that is complete by then needs no segment.
        self._pending: defaultdict[str, list[Recorded]] = defaultdict(list)
        self._num_pending = 0
        self._flushed_at = time.monotonic()
        self._numbers = count()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="docmill-write")
        self._jobs: list[Future[None]] = []

    def open_book(self, unit_id: str, ancestors: tuple[str, ...] = (), reused: str | None = None) -> UnitBook:
        """The book of a unit that begins, with all that earlier workers knew of it.

        `reused` is the folder with what finished runs knew, where they knew something.
        """
        names = (unit_id, *ancestors)
        known = read_segments(self._layout.segments(name) for name in names)
        from_finished = read_segments(join(reused, name) for name in names) if reused is not None else {}
        return UnitBook(unit_id, known, from_finished, self)

    def add(self, unit_id: str, recorded: Recorded) -> None:
        """Take one finished request."""
        self._pending[unit_id].append(recorded)
        self._num_pending += 1

    def forget(self, unit_id: str) -> None:
        """Write no more of a unit, see `UnitBook.forget`."""
        self._num_pending -= len(self._pending.pop(unit_id, []))

    def write_if_due(self) -> None:
        """Start writing where enough is pending or it is time. Raises what an earlier write raised.

        Not while earlier writes wait for the store: what comes meanwhile goes into fewer, larger segments.
        """
        waited = time.monotonic() - self._flushed_at
        if self._jobs and not self._jobs[-1].done():
            pass
        elif self._num_pending >= self._num_answers or (self._num_pending and waited >= self._seconds):
            self._start_writing()
        self.check()

    def submit(self, work: Callable[[], None]) -> None:
        """Have something else written, after all that came before."""
        self._jobs.append(self._thread.submit(self._timed, work))

    def _timed(self, work: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            work()
        finally:
            self.seconds += time.perf_counter() - started

    def check(self) -> None:
        """Raise what writing raised."""
        while self._jobs and self._jobs[0].done():
            self._jobs.pop(0).result()

    @property
    def num_waiting(self) -> int:
        """Writes that have not ended."""
        return len(self._jobs)

    def wait(self) -> None:
        """Until everything submitted is written; raises what that raised."""
        while self._jobs:
            self._jobs.pop(0).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._start_writing()
        self._thread.shutdown(wait=True)
        self.wait()

    def _start_writing(self) -> None:
        pending, self._pending, self._num_pending = self._pending, defaultdict(list), 0
        self._flushed_at = time.monotonic()
        for unit_id, recorded in pending.items():
            if recorded:
                name = f"{self._worker}-{next(self._numbers):06d}"
                self.submit(partial(self._write_segment, unit_id, name, recorded))

    def _write_segment(self, unit_id: str, name: str, recorded: list[Recorded]) -> None:
        write_segment(self._layout.segments(unit_id), name, starmap(finished_request, recorded))
