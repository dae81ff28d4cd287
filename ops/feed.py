"""Shards in, documents ready to be asked about out. Runs in a thread of its own, ahead of the engine.

What comes out is a stream of events, in the order of the shards: a shard opens, gives its batches, and ends; or it
fails, and the next one opens. One bad file never ends the stream.
"""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import pyarrow as pa

from docmill.data.errors import ShardError, StorageError
from docmill.data.records import Document, Shard, Status
from docmill.data.shards import DocumentBatch, ShardReader
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.chunking import Chunk, chunk
from docmill.ops.job import Job
from docmill.ops.prepare import PreparedText, Refusal, SeenIds, prepare
from docmill.ops.stages import Stages

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardOpened:
    """The first event of a shard."""

    shard: Shard
    num_rows: int
    carried_schema: pa.Schema


@dataclass(frozen=True, slots=True)
class BatchReady:
    """Some consecutive rows: for each its chunks, or why it is not asked about."""

    shard: Shard
    carried: pa.RecordBatch
    rows: list[list[Chunk] | Refusal]
    num_truncated: int


@dataclass(frozen=True, slots=True)
class ShardEnded:
    """The last event of a shard that was read to its end."""

    shard: Shard


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """The last event of a shard that cannot be used; batches of it may have come before."""

    shard: Shard
    error: Exception


Event = ShardOpened | BatchReady | ShardEnded | ShardFailed


def read_documents(
    job: Job, shards: Iterable[Shard], *, tokenizer: ModelTokenizer, max_chunk_tokens: int, stages: Stages
) -> Iterator[Event]:
    """Read, clean, tokenise and cut the documents of all shards."""
    seen = SeenIds()
    source = job.source
    for shard in shards:
        try:
            with stages.measure("read"):
                reader = ShardReader(
                    shard, id_column=source.id_column, text_column=source.text_column, carry=source.carry
                )
            with reader:
                yield ShardOpened(shard, reader.num_rows, reader.carried_schema)
                batches = iter(reader)
                while True:
                    with stages.measure("read"):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield _ready(
                        job,
                        shard,
                        batch,
                        seen,
                        tokenizer=tokenizer,
                        max_chunk_tokens=max_chunk_tokens,
                        stages=stages,
                    )
        except (ShardError, StorageError) as error:
            # A store that is down is not this shard's fault: the run ends, to be run again.
            if error.retryable:
                raise
            seen.next_shard(forget=True)
            yield ShardFailed(shard, error)
        else:
            seen.next_shard()
            yield ShardEnded(shard)


def _ready(
    job: Job,
    shard: Shard,
    batch: DocumentBatch,
    seen: SeenIds,
    tokenizer: ModelTokenizer,
    max_chunk_tokens: int,
    stages: Stages,
) -> BatchReady:
    with stages.measure("prepare"):
        prepared = [_prepare_safely(document, job, seen) for document in batch.documents]
    with stages.measure("tokenise"):
        texts = [item.text for item in prepared if isinstance(item, PreparedText)]
        token_ids = iter(_encode(texts, tokenizer))
        rows = [
            item
            if isinstance(item, Refusal)
            else _cut_safely(
                item.text, next(token_ids), tokenizer=tokenizer, max_chunk_tokens=max_chunk_tokens
            )
            for item in prepared
        ]
    num_truncated = sum(isinstance(item, PreparedText) and item.truncated for item in prepared)
    return BatchReady(shard, batch.carried, rows, num_truncated)


def _prepare_safely(document: Document, job: Job, seen: SeenIds) -> PreparedText | Refusal:
    try:
        return _prepare(document, job, seen)
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


def _prepare(document: Document, job: Job, seen: SeenIds) -> PreparedText | Refusal:
    prepared = prepare(document, job.prepare)
    if (
        document.doc_id is not None
        and job.prepare.duplicate_ids == "fail"
        and seen.seen_before(document.doc_id)
    ):
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

    def take(self, *, wait: bool) -> T | None:
        """The next item; None when there is none yet (or, waiting, none any more)."""
        if self._exhausted:
            return None
        try:
            item, error = self._queue.get(block=wait)
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
