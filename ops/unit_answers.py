"""Answers in, parts out: the rows of each unit in the order of its shard, written when the last one is there.

Answers come in any order. What waits for a slow document, or to be written, is bounded by `MAX_OPEN_ROWS`, on which
the worker stops taking new documents. A part is an Arrow file; `ops.assembling` makes the output files of the parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from docmill.data import storage
from docmill.data.dead_letters import DeadLetter, encode_dead_letters
from docmill.data.kept_answers import REQUESTS, encode_part
from docmill.data.layout import join
from docmill.data.ledger import Done, Ledger
from docmill.data.records import Answer, Document, Status
from docmill.data.schemas import answer_schema
from docmill.data.utf8 import text_key
from docmill.ops.claims import Claims, Held
from docmill.ops.dialogues import FailedRequest
from docmill.ops.feed import BatchReady, NearDuplicate, UnitFailed, UnitOpened
from docmill.ops.part_rows import answer_rows, count_answers, dead_letter, encode_rows
from docmill.ops.prepare import Refusal
from docmill.ops.report import TaskReport
from docmill.ops.segment_writer import DocumentBook, SegmentWriter, UnitBook, finished_request
from docmill.ops.tasks.task import Task

MAX_OPEN_ROWS = 20_000
DEAD_LETTERS = "dead_letters"  # their part's name; no task can be called so, see `ops.job`


@dataclass(slots=True, eq=False)
class Place:
    """Where an answer belongs: a row of a batch of a unit."""

    batch: _OpenBatch
    offset: int

    @property
    def near_duplicate(self) -> NearDuplicate | None:
        """The row's own document, where another's is asked about in its place."""
        return self.batch.near.get(self.offset)

    @property
    def shard(self) -> str:
        """Name of its shard."""
        return self.batch.unit.held.unit.shard

    @property
    def row(self) -> int:
        """Position in the shard, from 0."""
        return self.batch.first_row + self.offset

    @property
    def doc_id(self) -> str | None:
        """Of the row's own document."""
        doc_id = self.batch.carried.column(0)[self.offset].as_py()
        return None if doc_id is None else str(doc_id)


@dataclass(slots=True, eq=False)
class _OpenBatch:
    unit: _OpenUnit
    first_row: int
    carried: pa.RecordBatch
    truncated: list[bool]
    chunked: list[bool]
    answers: dict[str, list[Answer | None]]  # task -> one for each row
    num_missing: int
    near: dict[int, NearDuplicate]


@dataclass(slots=True, eq=False)
class _OpenUnit:
    held: Held
    schemas: dict[str, pa.Schema]
    book: UnitBook
    batches: deque[_OpenBatch] = field(default_factory=deque)
    failed: list[tuple[str, _OpenBatch, int, FailedRequest]] = field(default_factory=list)
    read_to_end: bool = False
    ended: bool = False

    @property
    def num_rows(self) -> int:
        """Rows that were opened."""
        return sum(batch.carried.num_rows for batch in self.batches)

    def let_go(self) -> None:
        """Forget the answers. Unit and batches hold each other, and the collector comes rarely (`engine.garbage`)."""
        self.batches.clear()
        self.failed.clear()


class UnitAnswers:
    """The units that one worker has open."""

    def __init__(
        self,
        ledger: Ledger,
        claims: Claims,
        writer: SegmentWriter,
        tasks: Mapping[str, Task],
        *,
        job: str,
        model: str,
        keep: bool = False,
        reused: str | None = None,
        near_duplicates: bool = False,
    ):
        """`keep`: leave the requests for later runs; `reused`: the folder with those of runs that were finished.

        `near_duplicates`: the answers tell which of them are about another row.
        """
        self.num_rows_written = self.num_answers = self.num_failed = 0
        self._ledger, self._claims, self._writer, self._tasks = ledger, claims, writer, tasks
        self._job, self._model, self._keep, self._reused = job, model, keep, reused
        self._near_duplicates = near_duplicates
        self._units: dict[int, _OpenUnit] = {}  # by the identity of what is held
        self._num_open_rows = self._num_open_answers = 0
        # Of units that are complete: handed to the writer, and by its thread, written.
        self._num_rows_closed = self._num_rows_let_go = 0

    @property
    def num_rows_done(self) -> int:
        """Rows answered, written or not; a row of which two of three tasks are answered counts two thirds."""
        return self.num_rows_written + self._num_open_answers // len(self._tasks)

    @property
    def has_room(self) -> bool:
        """Whether more rows may be opened."""
        return self._num_open_rows + self._num_rows_closed - self._num_rows_let_go < MAX_OPEN_ROWS

    def open_unit(self, event: UnitOpened) -> None:
        """Begin a unit with what earlier workers knew of it."""
        unit = event.held.unit
        schemas = {
            name: answer_schema(
                event.carried_schema, task.columns, job=self._job, near_duplicates=self._near_duplicates
            )
            for name, task in self._tasks.items()
        }
        book = self._writer.open_book(unit.id, unit.ancestors, self._reused)
        book.elsewhere = event.answers
        if self._keep:
            book.kept = {}
        self._units[id(event.held)] = _OpenUnit(event.held, schemas, book)

    def open_batch(self, event: BatchReady) -> list[tuple[Place, DocumentBook]]:
        """Make room for a batch's answers. Rows that are not asked about get theirs at once. Returns a place a row.

        Of rows that another worker has taken over meanwhile nothing is returned.
        """
        unit = self._units.get(id(event.held))
        num_rows = min(len(event.rows), event.held.unit.end_row - event.first_row)
        if unit is None or event.held.lost or num_rows <= 0:
            return []
        event.held.next_row = event.first_row + num_rows
        rows = event.rows[:num_rows]
        batch = _OpenBatch(
            unit,
            event.first_row,
            event.carried.slice(0, num_rows),
            event.truncated[:num_rows],
            [isinstance(row, list) and len(row) > 1 for row in rows],
            {name: [None] * num_rows for name in self._tasks},
            num_rows * len(self._tasks),
            event.near,
        )
        unit.batches.append(batch)
        self._num_open_rows += num_rows
        places = [Place(batch, offset) for offset in range(num_rows)]
        for place, row in zip(places, rows, strict=True):
            if isinstance(row, Refusal):
                for name in self._tasks:
                    self.add(place, name, Answer(row.status, error=str(row)))
        return [
            # What another row is asked is kept where that row is.
            (place, DocumentBook(unit.book, key, keep=place.near_duplicate is None))
            for place, key in zip(places, event.text_keys[:num_rows], strict=True)
        ]

    def own_book(self, place: Place, document: Document) -> DocumentBook:
        """For a near-duplicate that is asked itself after all."""
        return DocumentBook(place.batch.unit.book, text_key(document.text or ""))

    def add(self, place: Place, task_name: str, answer: Answer, failed: FailedRequest | None = None) -> None:
        """Take one answer; has the unit written when it was the last."""
        batch = place.batch
        if batch.unit.ended:
            return
        assert batch.answers[task_name][place.offset] is None, "a row was answered twice"
        batch.answers[task_name][place.offset] = answer
        if failed is not None:
            batch.unit.failed.append((task_name, batch, place.offset, failed))
        self._num_open_answers += 1
        self.num_answers += 1
        self.num_failed += answer.status is Status.FAILED
        batch.num_missing -= 1
        if batch.num_missing == 0:
            self._write_if_complete(batch.unit)

    def end_unit(self, held: Held) -> None:
        """No more batches will come."""
        unit = self._units.get(id(held))
        if unit is not None:
            unit.read_to_end = True
            self._write_if_complete(unit)

    def fail_unit(self, event: UnitFailed) -> None:
        """The unit's shard cannot be used. Answers still under way for it are dropped."""
        unit = self._units.get(id(event.held))
        if unit is not None:
            self._close(unit)
            unit.let_go()
        if event.held.lost:
            return
        done = Done(event.held.unit.id, self._claims.worker, {}, {}, error=str(event.error))
        self._writer.submit(partial(self._mark, event.held, done))

    def drop_lost(self) -> None:
        """Give up units that other workers have taken over."""
        for unit in [unit for unit in self._units.values() if unit.held.lost]:
            self._close(unit)
            unit.let_go()

    def _write_if_complete(self, unit: _OpenUnit) -> None:
        if unit.ended or not unit.read_to_end or any(batch.num_missing for batch in unit.batches):
            return
        self._close(unit)
        if unit.held.lost:
            unit.let_go()
            return
        self.num_rows_written += unit.held.unit.num_rows
        unit.book.forget()
        self._num_rows_closed += unit.num_rows
        self._writer.submit(partial(self._write, unit))

    def _close(self, unit: _OpenUnit) -> None:
        unit.ended = True
        del self._units[id(unit.held)]
        self._num_open_rows -= unit.num_rows
        self._num_open_answers -= unit.num_rows * len(self._tasks) - sum(
            batch.num_missing for batch in unit.batches
        )

    def _write(self, unit: _OpenUnit) -> None:
        """On the writer's thread: the parts, then the mark that makes them count."""
        covered = unit.held.unit  # as it is now: a second half that was taken over is not in it
        folder = join(
            self._ledger.layout.parts_folder(self._ledger.plan.fingerprint), covered.id, self._claims.worker
        )
        reports = {name: TaskReport(kind=task.kind) for name, task in self._tasks.items()}
        parts = {name: join(folder, f"{name}.arrow") for name in self._tasks}
        num_truncated = num_chunked = 0
        batches: dict[str, list[pa.RecordBatch]] = {name: [] for name in self._tasks}
        for batch in unit.batches:
            num_rows = min(batch.carried.num_rows, covered.end_row - batch.first_row)
            if num_rows <= 0:
                continue
            num_truncated += sum(batch.truncated[:num_rows])
            num_chunked += sum(batch.chunked[:num_rows])
            for name, task in self._tasks.items():
                answers = [answer for answer in batch.answers[name][:num_rows] if answer is not None]
                count_answers(reports[name], answers)
                batches[name].append(
                    answer_rows(
                        batch.carried.slice(0, num_rows), answers, task, unit.schemas[name], self._model
                    )
                )
        for name, uri in parts.items():
            storage.put_bytes(uri, encode_rows(batches[name], unit.schemas[name]))
        letters = _dead_letters(unit, covered.end_row)
        if letters:
            parts[DEAD_LETTERS] = join(folder, f"{DEAD_LETTERS}.parquet")
            storage.put_bytes(parts[DEAD_LETTERS], encode_dead_letters(letters))
        if unit.book.kept is not None:
            parts[REQUESTS] = join(folder, "requests.arrow")
            kept = (
                (text_key, finished_request(request_key, completion))
                for (text_key, request_key), completion in unit.book.kept.items()
            )
            storage.put_bytes(parts[REQUESTS], encode_part(kept))
        figures: dict[str, Any] = {
            "rows": covered.num_rows,
            "truncated": num_truncated,
            "chunked": num_chunked,
            "tasks": {name: report.model_dump() for name, report in reports.items()},
        }
        self._mark(unit.held, Done(covered.id, self._claims.worker, parts, figures))
        self._num_rows_let_go += unit.num_rows
        unit.let_go()

    def _mark(self, held: Held, done: Done) -> None:
        self._claims.finishing(done.unit_id)
        if not self._ledger.finish(done):
            storage.delete_files(list(done.parts.values()))  # somebody else was first
        # Its segments stay until the partition is finished: a run of other tasks or settings may be in need of them.
        self._claims.release(held)


def _dead_letters(unit: _OpenUnit, end_row: int) -> list[DeadLetter]:
    letters = []
    for task_name, batch, offset, failed in unit.failed:
        answer, place = batch.answers[task_name][offset], Place(batch, offset)
        if answer is not None and place.row < end_row:
            letters.append(dead_letter(task_name, place.shard, place.row, place.doc_id, answer, failed))
    return letters
