"""Units in, documents ready to be asked about out. Runs in a thread of its own, ahead of the engine.

What comes out is a stream of events: a unit opens, gives its batches, and ends; or it fails, and the next one opens.
One bad file never ends the stream. Units are claimed here, one when the one before has been read to its end.
"""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

import pyarrow as pa

from docmill.data.errors import SHARD_ERRORS
from docmill.data.ledger import Ledger
from docmill.data.near_rows import Representative
from docmill.data.records import Document, Shard, Status
from docmill.data.segments import FinishedRequest
from docmill.data.shards import DocumentBatch, ShardReader
from docmill.data.utf8 import text_key
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.chunking import Chunk, chunk
from docmill.ops.claims import Claims, Held
from docmill.ops.job import Job
from docmill.ops.near_unit import open_near
from docmill.ops.openings import order_by_opening
from docmill.ops.prepare import PreparedText, Refusal, prepare
from docmill.ops.stages import Stages

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_ROWS = 64  # handed on at once: what another worker can no longer take over
WAIT_SECONDS = 1.0  # for other workers to finish, or to leave something to do


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A row whose chunks are those of another row, which it is like. Its own document is held for where those fail."""

    representative: str  # id of the other row's document
    document: Document


@dataclass(frozen=True, slots=True)
class UnitOpened:
    """The first event of a unit."""

    held: Held
    carried_schema: pa.Schema
    # By request key: what rows of other units were answered that rows of this one are like.
    answers: Mapping[str, FinishedRequest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchReady:
    """Some consecutive rows: for each its chunks, or why it is not asked about."""

    held: Held
    first_row: int
    carried: pa.RecordBatch
    rows: list[list[Chunk] | Refusal]
    truncated: list[bool]
    text_keys: list[int]  # of the rows' texts, see `utf8.text_key`
    order: Sequence[int]  # of the rows, in which they are best asked about
    near: dict[int, NearDuplicate] = field(default_factory=dict)  # by the row's place in the batch


@dataclass(frozen=True, slots=True)
class UnitEnded:
    """The last event of a unit that was read to its end."""

    held: Held


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """The last event of a unit whose shard cannot be used; batches of it may have come before."""

    held: Held
    error: Exception


Event = UnitOpened | BatchReady | UnitEnded | UnitFailed


def read_units(
    job: Job,
    claims: Claims,
    shards: Mapping[str, Shard],
    *,
    tokenizer: ModelTokenizer,
    max_chunk_tokens: int,
    stages: Stages,
    stop: threading.Event,
    near: str | None = None,
) -> Iterator[Event]:
    """Claim unit after unit, and read, clean, tokenise and cut its documents, until all units are done.

    `near` is the folder with the rows that are asked as others, where there are any (`ops.representatives`).
    """
    cutter = DocumentCutter(job, tokenizer, max_chunk_tokens, stages)
    while not stop.is_set():
        held = claims.take()
        if held is not None:
            yield from _read_unit(job, held, shards[held.unit.shard], cutter, claims.ledger, near)
        elif claims.all_done():
            return
        else:
            claims.changed.wait(min(WAIT_SECONDS, claims.lease_seconds / 4))
            claims.changed.clear()


def _read_unit(
    job: Job, held: Held, shard: Shard, cutter: DocumentCutter, ledger: Ledger, near: str | None
) -> Iterator[Event]:
    source, unit = job.source, held.unit
    try:
        with cutter.stages.measure("read"):
            rows, answers = open_near(near, ledger, unit) if near is not None else ({}, {})
            reader = ShardReader(
                shard,
                id_column=source.id_column,
                text_column=source.text_column,
                carry=source.carry,
            )
        with reader:
            yield UnitOpened(held, reader.carried_schema, answers)
            batches = reader.rows(unit.first_row, unit.end_row)
            while not held.lost:
                with cutter.stages.measure("read"):
                    batch = next(batches, None)
                if (
                    batch is None or batch.first_row >= held.unit.end_row
                ):  # the rest is another worker's by now
                    break
                yield from cutter.ready(held, batch, rows)
    except SHARD_ERRORS as error:
        yield UnitFailed(held, error)
    else:
        yield UnitEnded(held)


class DocumentCutter:
    """Documents to chunks; whatever is wrong with one of them is that row's refusal."""

    def __init__(self, job: Job, tokenizer: ModelTokenizer, max_chunk_tokens: int, stages: Stages):
        self.stages = stages
        self._job, self._tokenizer, self._max_chunk_tokens = job, tokenizer, max_chunk_tokens

    def ready(
        self, held: Held, batch: DocumentBatch, near: Mapping[int, Representative] | None = None
    ) -> Iterator[BatchReady]:
        """A batch of a unit, in the parts that are handed on. Whatever leaves the GIL is done for all of it at once:
        to have it back from a busy thread takes milliseconds.

        Rows in `near` are asked as what represents them, unless there is something wrong with it.
        """
        duplicates = set(held.unit.duplicate_rows)
        asked, found = _represented(batch.documents, near or {})
        rows, truncated = self.cut(asked, duplicates=duplicates)
        if refused := [offset for offset in found if isinstance(rows[offset], Refusal)]:
            own, own_truncated = self.cut(
                [found[offset].document for offset in refused], duplicates=duplicates
            )
            for offset, row, cut_short in zip(refused, own, own_truncated, strict=True):
                asked[offset], rows[offset], truncated[offset] = found.pop(offset).document, row, cut_short
        keys = [0 if document.text is None else text_key(document.text) for document in asked]
        order = order_by_opening([document.text for document in asked])
        size = BATCH_ROWS if order is None else len(rows)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            yield BatchReady(
                held,
                batch.first_row + start,
                batch.carried.slice(start, size),
                rows[part],
                truncated[part],
                keys[part],
                order or range(len(rows[part])),
                {offset - start: row for offset, row in found.items() if start <= offset < part.stop},
            )

    def cut(
        self, documents: list[Document], *, duplicates: Collection[int] = ()
    ) -> tuple[list[list[Chunk] | Refusal], list[bool]]:
        """For each document its chunks or its refusal, and whether its text was cut short."""
        with self.stages.measure("prepare"):
            prepared = [
                _prepare_safely(document, self._job, document.row in duplicates) for document in documents
            ]
        with self.stages.measure("tokenise"):
            texts = [item.text for item in prepared if isinstance(item, PreparedText)]
            token_ids = iter(_encode(texts, self._tokenizer))
            rows = [item if isinstance(item, Refusal) else self._chunks(item, token_ids) for item in prepared]
        return rows, [isinstance(item, PreparedText) and item.truncated for item in prepared]

    def _chunks(self, item: PreparedText, token_ids: Iterator[list[int] | None]) -> list[Chunk] | Refusal:
        return _cut_safely(
            item.text, next(token_ids), tokenizer=self._tokenizer, max_chunk_tokens=self._max_chunk_tokens
        )


def _represented(
    documents: list[Document], near: Mapping[int, Representative]
) -> tuple[list[Document], dict[int, NearDuplicate]]:
    """The documents with others' texts where these stand for them, and which those are, by their place."""
    asked, found = list(documents), {}
    for offset, document in enumerate(documents if near else ()):
        representative = near.get(document.row)
        if representative is not None and representative.document.doc_id is not None:
            found[offset] = NearDuplicate(representative.document.doc_id, document)
            asked[offset] = replace(document, text=representative.document.text)
    return asked, found


def _prepare_safely(document: Document, job: Job, duplicate: bool) -> PreparedText | Refusal:
    try:
        return _prepare(document, job, duplicate)
    except Exception as error:  # noqa: BLE001 - one document never fails a job, not even by a bug of ours
        return _unexpected(error)


def _encode(texts: list[str], tokenizer: ModelTokenizer) -> list[list[int] | None]:
    """Token ids of each text; None for a text that the tokenizer cannot take, which is rare enough to look for."""
    try:
        return [*tokenizer.encode_data(texts)]
    except Exception as error:  # noqa: BLE001 - `tokenizers` raises plain Exception
        if len(texts) == 1:
            log.error("the tokenizer failed on a document: %s", type(error).__name__)
            return [None]
        return [ids for text in texts for ids in _encode([text], tokenizer)]


def _cut_safely(
    text: str, token_ids: list[int] | None, *, tokenizer: ModelTokenizer, max_chunk_tokens: int
) -> list[Chunk] | Refusal:
    if token_ids is None:
        return Refusal(Status.FAILED, "tokenise_error", "the model's tokenizer cannot take this text")
    try:
        return _chunks(text, token_ids, tokenizer=tokenizer, max_chunk_tokens=max_chunk_tokens)
    except Exception as error:  # noqa: BLE001 - as above
        return _unexpected(error)


def _unexpected(error: Exception) -> Refusal:
    log.error("a document could not be prepared: %s", type(error).__name__)
    log.debug(
        "where: %s", "".join(traceback.format_tb(error.__traceback__))
    )  # its text may be the document's
    explanation = f"{type(error).__name__} while preparing the text; please report it"
    return Refusal(Status.FAILED, "prepare_error", explanation)


def _prepare(document: Document, job: Job, duplicate: bool) -> PreparedText | Refusal:
    prepared = prepare(document, job.prepare)
    if duplicate:
        return Refusal(
            Status.FAILED, "duplicate_id",
            "an earlier row of the partition has this id; make ids unique, or set prepare.duplicate_ids: keep",
        )  # fmt: skip
    return prepared


def _chunks(
    text: str, token_ids: list[int], *, tokenizer: ModelTokenizer, max_chunk_tokens: int
) -> list[Chunk] | Refusal:
    if not tokenizer.control_token_ids.isdisjoint(token_ids):
        return Refusal(
            Status.FAILED, "control_tokens", "the tokenizer turns this text into control tokens of the model"
        )
    chunks = chunk(text, token_ids, max_tokens=max_chunk_tokens, tokenizer=tokenizer)
    if not chunks:
        return Refusal(Status.SKIPPED, "text_empty", "the tokenizer leaves nothing of this text")
    return chunks


class Ahead(Generic[T]):
    """Runs an iterator in a thread, a few items ahead. What it raises is raised where its items are taken.

    Use as a context manager: leaving it ends the thread, also when items are left.
    """

    def __init__(self, items: Iterator[T], *, num_ahead: int):
        self._items = items
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=num_ahead)
        self._stopped = threading.Event()
        self._exhausted = False
        self._thread = threading.Thread(target=self._run, name="docmill-feed", daemon=True)
        self._thread.start()

    @property
    def exhausted(self) -> bool:
        """Whether every item was taken."""
        return self._exhausted

    def take(self, timeout_seconds: float = 0.0) -> T | None:
        """The next item, waited for as long; None when there is none yet, or none any more."""
        if self._exhausted:
            return None
        try:
            item, error = self._queue.get(block=timeout_seconds > 0, timeout=timeout_seconds or None)
        except queue.Empty:
            return None
        if error is not None:
            raise error
        self._exhausted = item is None
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _run(self) -> None:
        try:
            for item in self._items:
                self._queue.put((item, None))
                if self._stopped.is_set():
                    return
            self._queue.put((None, None))
        except BaseException as error:  # noqa: BLE001 - reaches whoever takes the items
            self._queue.put((None, error))
