"""One worker: owns one engine, claims units of the plan, and leaves their answers in the store. No driver is asked.

    claims --unit--> feed (own thread): read, clean, tokenise, cut--> documents
           --dialogues: every task's requests, adjacent--> engine (own process), never waiting for a unit or a shard
           --segments (own thread): finished requests, every few seconds--> store
           --unit answers: rows in input order--> parts, and the mark that the unit is done

It may be killed at any time: what it had finished is in the segments, and its units go to whoever comes next.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from docmill.data.layout import Layout
from docmill.data.ledger import Ledger
from docmill.data.manifest import is_committed
from docmill.data.plan import Plan
from docmill.data.records import Answer, Partition, Shard, Status
from docmill.engine.errors import ModelChanged
from docmill.engine.garbage import rare_garbage_collection
from docmill.engine.open_engine import start_engine
from docmill.engine.pool.types import WorkerContext
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine, StartedEngine
from docmill.ops.chunking import Chunk
from docmill.ops.claims import Claims
from docmill.ops.dialogues import Dialogues
from docmill.ops.errors import JobError
from docmill.ops.feed import (
    Ahead,
    BatchReady,
    DocumentCutter,
    Event,
    NearDuplicate,
    UnitEnded,
    UnitFailed,
    UnitOpened,
    read_units,
)
from docmill.ops.job import Job
from docmill.ops.progress import OnProgress, ignore_progress
from docmill.ops.prompts import Prompts
from docmill.ops.segment_writer import DocumentBook, SegmentWriter
from docmill.ops.stages import Stages
from docmill.ops.timeline import IdleCause, Timeline
from docmill.ops.tuned_engines import read_tuned
from docmill.ops.unit_answers import Place, UnitAnswers
from docmill.ops.worker_figures import WorkerFigures

log = logging.getLogger(__name__)

SMALLEST_CHUNK_TOKENS = 16
NUM_BATCHES_AHEAD = 4
POLL_SECONDS = 0.1
WRITING_POLL_SECONDS = 0.02  # at the end, while only the writer has something to do
MAX_WRITES_WAITING = (
    32  # for a store slower than the engine: then no new documents, or memory would fill with answers
)
DRAIN_SECONDS = 10.0  # that requests in the engine may take to end when the worker is asked to stop


@dataclass(frozen=True)
class WorkOrder:
    """What a worker is to do. Travels to its process."""

    job: Job
    partition: Partition
    tasks: list[str]
    plan: Plan
    model_fingerprint: str  # of the model that it was planned for
    finished_before: str  # `manifest.finish_stamp`: another one means that somebody has finished the work
    reused: str | None = None  # folder with what finished runs know of the plan's texts, see `ops.reuse`
    near: str | None = None  # folder with what is asked as another row, see `ops.representatives`


@dataclass(frozen=True)
class WorkerResult:
    """What a worker has done."""

    worker: str
    stopped: bool = False  # because it was asked to
    num_rows: int = 0  # that it has answered
    figures: dict[str, Any] = field(default_factory=dict)  # none where nothing was left to do


def run_worker(
    order: WorkOrder,
    context: WorkerContext,
    *,
    engine: Engine | None = None,
    tokenizer: ModelTokenizer | None = None,
    on_progress: OnProgress = ignore_progress,
) -> WorkerResult:
    """Work until every unit of the plan is done or the context asks to stop.

    The engine is opened here and closed again, unless one is given. Raises what concerns the run as a whole
    (`JobError`, `StorageError`, `EngineError`); finished requests are in the store also then.
    """
    return _Worker(order, context, engine, tokenizer, on_progress).run()


class _Worker:
    def __init__(
        self,
        order: WorkOrder,
        context: WorkerContext,
        engine: Engine | None,
        tokenizer: ModelTokenizer | None,
        on_progress: OnProgress,
    ):
        self.order, self.context = order, context
        self.name = f"{context.name}-{uuid.uuid4().hex[:6]}"  # a process may run several times
        self.job = order.job
        self.tasks = {name: order.job.tasks[name] for name in order.tasks}
        self.layout = Layout(order.job.output.uri, order.partition)
        self.ledger = Ledger(self.layout, order.plan)
        self.stages = Stages()
        self.figures = WorkerFigures(self.stages, on_progress, num_documents=order.plan.num_documents)
        self.engine, self.tokenizer = engine, tokenizer
        self.dialogues: Dialogues[Place] | None = None
        self.answers: UnitAnswers | None = None
        self.timeline: Timeline | None = None
        self.claims: Claims
        self.cutter: DocumentCutter  # of this thread; the feed has its own

    def run(self) -> WorkerResult:
        job, order = self.job, self.order
        view = self.ledger.view()
        if all(unit.id in view.done for unit in self.ledger.units(view)) or self._committed():
            return WorkerResult(self.name)
        stop = threading.Event()
        with ExitStack() as stack:
            stack.enter_context(rare_garbage_collection())
            self.figures.show("loading model", now=True)
            with self.stages.measure("model_load"):
                started: StartedEngine | None = None
                if self.engine is None:
                    started = start_engine(job.model, job.engine, read_tuned(job.output.uri))
                    stack.callback(started.close)
                tokenizer = self.tokenizer or ModelTokenizer(job.model)  # meanwhile: it takes seconds too
                if started is not None:
                    if not self._wait_for(started):
                        return WorkerResult(self.name, stopped=True)
                    self.engine = started
            assert self.engine is not None
            engine = self.engine
            if engine.info.model_fingerprint != order.model_fingerprint:
                raise ModelChanged(job.model.source)
            self.figures.loaded(engine)
            prompts = Prompts(tokenizer, job.system_prompt)
            most_chunk_tokens = max_chunk_tokens(job, prompts, engine.info.max_model_len)
            claims = stack.enter_context(
                Claims(
                    self.ledger,
                    self.name,
                    lease_seconds=job.ledger.lease_seconds,
                    figures=self.figures.beat,
                    committed=self._committed,
                )
            )
            writer = stack.enter_context(
                SegmentWriter(
                    self.layout,
                    self.name,
                    seconds=job.ledger.segment_seconds,
                    num_answers=job.ledger.segment_answers,
                )
            )
            self.figures.writer = writer
            self.answers = self.figures.answers = UnitAnswers(
                self.ledger,
                claims,
                writer,
                self.tasks,
                job=job.name,
                model=engine.info.model,
                keep=job.reuse.runs > 0 or order.near is not None,
                reused=order.reused,
                near_duplicates=job.takes_answers_of_near_duplicates,
            )
            self.dialogues = self.figures.dialogues = Dialogues(
                engine,
                prompts,
                self.tasks,
                max_in_flight=job.engine.max_in_flight,
                settings=job.engine_settings,
            )
            self.cutter = DocumentCutter(job, tokenizer, most_chunk_tokens, Stages())
            events = read_units(
                job,
                claims,
                {
                    shard.name: Shard(shard.name, shard.uri, shard.num_bytes, shard.version)
                    for shard in order.plan.shards
                },
                tokenizer=tokenizer,
                max_chunk_tokens=most_chunk_tokens,
                stages=self.stages,
                stop=stop,
                near=order.near,
            )
            feed = stack.enter_context(Ahead(events, num_ahead=NUM_BATCHES_AHEAD))
            stack.callback(
                self._end_feed, stop, claims
            )  # before the feed is left: it may be waiting for others
            self.claims = self.figures.claims = claims
            self.timeline = self.figures.timeline = Timeline(engine)
            stopped = self._work(feed, claims, writer)
        log.info("job=%s partition=%s worker=%s stopped=%s seconds=%.1f",
                 job.name, order.partition, self.name, stopped, self.figures.seconds)  # fmt: skip
        return WorkerResult(self.name, stopped, self.answers.num_rows_written, self.figures.at_the_end())

    def _wait_for(self, started: StartedEngine) -> bool:
        """Whether it has loaded; False where the worker is asked to stop meanwhile: a large model takes minutes."""
        while not self.context.stopping:
            self.context.poll()
            if started.wait_until_loaded(POLL_SECONDS):
                return True
        return False

    def _committed(self) -> bool:
        order = self.order
        return is_committed(self.layout.manifest, order.plan.id, order.tasks, order.finished_before)

    @staticmethod
    def _end_feed(stop: threading.Event, claims: Claims) -> None:
        stop.set()
        claims.changed.set()

    def _work(self, feed: Ahead[Event], claims: Claims, writer: SegmentWriter) -> bool:
        """The loop. Returns whether it was asked to stop."""
        assert self.dialogues is not None
        assert self.answers is not None
        assert self.timeline is not None
        dialogues, answers = self.dialogues, self.answers
        while not feed.exhausted or dialogues.num_open or writer.num_waiting:
            self.context.poll()
            if self.context.stopping:
                self._drain()
                return True
            if claims.error is not None:
                raise claims.error
            while (
                not feed.exhausted
                and dialogues.wants_more
                and answers.has_room
                and writer.num_waiting < MAX_WRITES_WAITING
            ):
                event = feed.take(POLL_SECONDS if not dialogues.num_open else 0.0)
                if event is None:
                    break
                self._take(event)
            dialogues.pump()
            self.timeline.look(self._idle_cause(feed, writer))
            self._collect(POLL_SECONDS)
            if not dialogues.num_open and feed.exhausted:
                time.sleep(WRITING_POLL_SECONDS)
            answers.drop_lost()
            writer.write_if_due()
            self.figures.show("running")
        self.figures.show("running", now=True)
        return False

    def _idle_cause(self, feed: Ahead[Event], writer: SegmentWriter) -> IdleCause:
        """Why the engine has room, if it has."""
        assert self.answers is not None
        if feed.exhausted or self.claims.none_free:
            return "draining" if self.dialogues is not None and self.dialogues.num_open else "writing"
        if not self.answers.has_room or writer.num_waiting >= MAX_WRITES_WAITING:
            return "writing"
        return "starved"

    def _take(self, event: Event) -> None:
        assert self.dialogues is not None
        assert self.answers is not None
        match event:
            case UnitOpened():
                self.answers.open_unit(event)
            case BatchReady():
                places = self.answers.open_batch(event)
                for position in event.order:
                    row = event.rows[position]
                    if position < len(places) and isinstance(row, list):
                        self._start(*places[position], row)
            case UnitEnded():
                self.answers.end_unit(event.held)
            case UnitFailed():
                log.warning("shard failed: %s", event.error)
                self.answers.fail_unit(event)

    def _start(self, place: Place, book: DocumentBook, chunks: list[Chunk]) -> None:
        """Ask about a document, or about the one that it is like. Answers drawn at random spare nothing: no other's."""
        assert self.dialogues is not None
        near = place.near_duplicate
        if near is None:
            self.dialogues.start(place, chunks, book=book)
            return
        shared = [name for name, task in self.tasks.items() if task.repeatable]
        if shared:
            self.dialogues.start(
                place, chunks, book=book, tasks=shared, near_duplicate_of=near.representative
            )
        if own := self.tasks.keys() - shared:
            self._ask_itself(place, near, own)

    def _ask_itself(self, place: Place, near: NearDuplicate, tasks: Collection[str]) -> None:
        """A near-duplicate that its representative cannot answer for."""
        assert self.dialogues is not None
        assert self.answers is not None
        (row,), _ = self.cutter.cut([near.document])
        if isinstance(row, list):
            self.dialogues.start(place, row, book=self.answers.own_book(place, near.document), tasks=tasks)
            return
        for name in tasks:
            self.answers.add(place, name, Answer(row.status, error=str(row)))

    def _collect(self, timeout_seconds: float) -> None:
        assert self.dialogues is not None
        assert self.answers is not None
        for finished in self.dialogues.collect(timeout_seconds):
            place, answer = finished.key, finished.answer
            self.figures.slowest.note(place, finished.task_name, finished.seconds, answer.usage)
            near = place.near_duplicate
            if near is not None and answer.near_duplicate_of is not None and answer.status is Status.FAILED:
                self._ask_itself(place, near, [finished.task_name])
            else:
                self.answers.add(place, finished.task_name, answer, finished.failed)

    def _drain(self) -> None:
        """Requests that the engine is about to finish are worth waiting for; new ones are not begun."""
        assert self.dialogues is not None
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.dialogues.num_in_flight and time.monotonic() < deadline:
            self._collect(POLL_SECONDS)


def max_chunk_tokens(job: Job, prompts: Prompts, max_model_len: int) -> int:
    """The longest chunk that fits every task of the job, chosen or not: prompts must not depend on the choice."""
    room = {name: task.max_chunk_tokens(prompts, max_model_len) for name, task in job.tasks.items()}
    tightest = min(room, key=room.__getitem__)
    if room[tightest] < SMALLEST_CHUNK_TOKENS:
        raise JobError(job.name, [
            f"tasks.{tightest}: its prompt and longest answer leave {room[tightest]} tokens for the document in a "
            f"context of {max_model_len}; lower its output tokens, shorten the instruction, or raise "
            "engine.max_model_len"
        ])  # fmt: skip
    return min(room[tightest], job.chunking.max_tokens or room[tightest])
