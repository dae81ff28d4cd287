"""All the questions under way: every task's dialogue with the engine about every document being worked on.

Requests of one chunk are handed over one after the other, so that its prefix is computed once and is still in the
engine's cache for the next task; the longest expected answer first, since it is the last to end. There is no barrier
anywhere: a request leaves as soon as the engine has room.

What was answered in an earlier run is not asked again: a document comes with a `Book` in which every request is looked
up by its content first. A dialogue is replayed with its old completions until it asks something new. Nor is what an
equal document asks: a request waits for its like in the engine, or takes the answer that this had lately.
"""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from collections import deque
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, zip_longest
from typing import Generic, Literal, Protocol, TypeVar

import xxhash

from docmill.data.records import NO_USAGE, Answer, Status, Usage
from docmill.engine.types import Completion, Engine, Request
from docmill.ops.admission import Admission
from docmill.ops.answer_lengths import AnswerLengths
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.recent_answers import RecentAnswers
from docmill.ops.tasks.task import Ask, Dialogue, Task, TaskError

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)


Source = Literal["engine", "duplicate", "finished run", "near-duplicate"]


# What there is one of for each request is not frozen: that trebles what it takes to make one. Nobody changes it.
@dataclass(slots=True)
class Known:
    """An answer from earlier: of this run's engines, of an equal request of another row, or of a finished run."""

    completion: Completion
    source: Source = "engine"


class Book(Protocol):
    """What is known of a document's requests from earlier runs, and where what is learned now is written down."""

    def find(self, request_key: str) -> Known | None:
        """The answer of a request with this content."""
        ...

    def record(self, request_key: str, completion: Completion, *, duplicate: bool = False) -> None:
        """The engine has answered, this request or an equal one of another row."""
        ...

    def keep(self, request_key: str, completion: Completion) -> None:
        """Whoever answered it: the same request will have the same answer in later runs."""
        ...


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """The request because of which a row has no answer."""

    request: Request
    request_key: str
    attempts: int


@dataclass(slots=True, eq=False)
class _Running(Generic[Key]):
    """One task's dialogue about one document."""

    key: Key
    task_name: str
    dialogue: Dialogue
    book: Book | None
    near_duplicate_of: str | None
    completions: list[Completion | None] = field(default_factory=list)  # of the present round, in its order
    num_outstanding: int = 0
    asked_at: float | None = None  # its first request in the engine, by the monotonic clock; None: spared
    usage: Usage = NO_USAGE
    num_duplicates: int = 0  # requests answered by an equal one of another row
    num_near_duplicates: int = 0  # those of them of a row that is asked as another one
    num_reused: int = 0  # requests answered in a finished run
    spared: Usage = NO_USAGE  # of all these
    spared_by_near_duplicates: Usage = NO_USAGE
    cut_off: bool = False
    error: str | None = None
    request_keys: list[str] = field(default_factory=list)
    # The first request that failed, its key and attempts; else the last one that was answered.
    last: tuple[Request, str, int] | None = None


@dataclass(slots=True, eq=False)
class _InFlight(Generic[Key]):
    """A request in the engine, and where its completion belongs."""

    running: _Running[Key]
    position: int
    request: Request
    request_key: str
    num_text_tokens: int


@dataclass(slots=True)
class Finished(Generic[Key]):
    """A task's answer about the document that `start` was given `key` for."""

    key: Key
    task_name: str
    answer: Answer
    failed: FailedRequest | None = None  # where the answer is `failed` because of a request
    # From its first request in the engine to its last answer; 0 where the engine was spared. No part of the answer.
    seconds: float = field(default=0.0, compare=False)


class Dialogues(Generic[Key]):
    """Start documents, pump, and collect finished answers. Owned by one thread.

    `settings` (`Job.engine_settings`) are in every request's key, since another dtype gives another answer.
    `max_in_flight`: so many requests in the engine; without it as many as `Admission` finds right.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Prompts,
        tasks: Mapping[str, Task],
        *,
        max_in_flight: int | None = None,
        settings: str = "",
    ):
        self.usage = Usage()  # of the engine: replayed completions are not in it
        self.num_answered = 0  # requests, by the engine
        self._engine, self._prompts, self._tasks = engine, prompts, tasks
        self._admission = Admission(engine, max_in_flight)
        self._engine_key = f"{engine.info.model_fingerprint}|{engine.info.dtype}|{settings}"
        self._ready: deque[tuple[_Running[Key], int, Ask]] = deque()
        self._in_flight: dict[str, _InFlight[Key]] = {}
        # By key: a request in the engine, and behind it its duplicates.
        self._same_as: dict[str, list[_InFlight[Key]]] = {}
        self._recent = RecentAnswers()
        self.lengths = AnswerLengths(tasks)
        self._finished: list[Finished[Key]] = []
        # Of this object alone: an engine that is used again may still answer what an earlier run asked.
        self._ids = map(f"{uuid.uuid4().hex[:8]}-{{}}".format, count())

    @property
    def num_open(self) -> int:
        """Requests waiting here or in the engine."""
        return len(self._ready) + len(self._in_flight)

    @property
    def num_in_flight(self) -> int:
        """Requests in the engine."""
        return len(self._in_flight)

    @property
    def wants_more(self) -> bool:
        """Whether new documents are needed to keep the engine full."""
        return len(self._ready) < self._admission.max_in_flight

    def start(
        self,
        key: Key,
        chunks: list[Chunk],
        *,
        book: Book | None = None,
        tasks: Collection[str] | None = None,
        near_duplicate_of: str | None = None,
    ) -> None:
        """Ask every task (or those named) about one document.

        `near_duplicate_of`: the chunks are those of the document with this id, and so are the answers.
        """
        rounds = []
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        names = [name for name in self._tasks if tasks is None or name in tasks]
        names.sort(key=lambda name: -self.lengths.expected(name, num_tokens))
        for name in names:
            dialogue = self._tasks[name].ask(chunks, self._prompts)
            running = _Running(key, name, dialogue, book, near_duplicate_of)
            rounds.append(
                [(running, position, ask) for position, ask in enumerate(self._advance(running, None))]
            )
        # By chunk, then by task: what shares a prefix stands together.
        for same_chunk in zip_longest(*rounds):
            self._ready.extend(item for item in same_chunk if item is not None)

    def pump(self) -> None:
        """Hand requests to the engine up to the limit; those whose answer is known are answered at once."""
        while self._ready and len(self._in_flight) < self._admission.max_in_flight:
            running, position, ask = self._ready.popleft()
            prompt = self._prompts.render(ask.text, ask.token_ids, ask.instruction)
            request = Request(next(self._ids), prompt, ask.sampling, ask.labels)
            key = request.key(self._engine_key)
            running.request_keys.append(key)
            asked = _InFlight(running, position, request, key, len(ask.token_ids))
            known = running.book.find(key) if running.book else None
            if known is not None:
                if ask.sampling.repeatable:  # an equal request of a unit that knows nothing of it may come
                    self._recent.add(key, known.completion)
                self._take(asked, known.completion, known.source)
                continue
            if ask.sampling.repeatable:
                if key in self._same_as:
                    same = self._same_as[key]  # of which one prompt is enough to hold
                    same.append(replace(asked, request=same[0].request))
                    continue
                recent = self._recent.find(key)
                if recent is not None:
                    self._take_duplicate(asked, recent)
                    continue
                self._same_as[key] = [asked]
            self._in_flight[request.id] = asked
            if running.asked_at is None:
                running.asked_at = time.monotonic()
            self._engine.submit(request)

    def collect(self, timeout_seconds: float) -> list[Finished[Key]]:
        """Answers that are complete; waits up to the timeout for the engine's next completion."""
        if self._in_flight and not self._finished:
            completions = self._engine.completions(timeout_seconds)
            self._admission.answered(len(completions))
            for completion in completions:
                asked = self._in_flight.pop(completion.request_id, None)
                if asked is not None:
                    self._answered(asked, completion)
        finished, self._finished = self._finished, []
        return finished

    def _answered(self, asked: _InFlight[Key], completion: Completion) -> None:
        """By the engine. Duplicates that wait for it take the same, an error too: they are as poisonous."""
        self.usage += completion.usage
        self.num_answered += 1
        _, *duplicates = self._same_as.pop(asked.request_key, [asked])
        if asked.request.sampling.repeatable:
            self._recent.add(asked.request_key, completion)
        if asked.running.book is not None:
            asked.running.book.record(asked.request_key, completion)
        self._take(asked, completion, "engine")
        for duplicate in duplicates:
            self._take_duplicate(duplicate, completion)

    def _take_duplicate(self, asked: _InFlight[Key], completion: Completion) -> None:
        usage = completion.usage
        same = replace(completion, usage=replace(usage, num_cached_tokens=usage.num_prompt_tokens))
        if asked.running.book is not None:
            asked.running.book.record(asked.request_key, same, duplicate=True)
        self._take(asked, same, "duplicate")

    def _take(self, asked: _InFlight[Key], completion: Completion, source: Source) -> None:
        running = asked.running
        if source == "duplicate" and running.near_duplicate_of is not None:
            source = "near-duplicate"
            running.spared_by_near_duplicates += completion.usage
        if source != "engine":
            running.num_duplicates += source == "duplicate"
            running.num_near_duplicates += source == "near-duplicate"
            running.num_reused += source == "finished run"
            running.spared += completion.usage
        running.usage = completion.usage if running.usage is NO_USAGE else running.usage + completion.usage
        running.cut_off |= completion.finish_reason == "length"
        running.completions[asked.position] = completion
        running.num_outstanding -= 1
        if running.error is None:
            running.last = asked.request, asked.request_key, completion.attempts
        if completion.error is not None:
            running.error = running.error or str(completion.error)
        else:
            num_tokens = completion.usage.num_output_tokens
            self.lengths.learn(running.task_name, asked.num_text_tokens, num_tokens)
            if running.book is not None and asked.request.sampling.repeatable:
                running.book.keep(asked.request_key, completion)
        if running.num_outstanding:
            return
        if running.error is not None:
            running.dialogue.close()
            self._end(running, Status.FAILED)
            return
        asks = self._advance(
            running, [completion for completion in running.completions if completion is not None]
        )
        # A further round goes first: its document is nearly done, and its rows hold up those behind it.
        self._ready.extendleft(reversed([(running, index, ask) for index, ask in enumerate(asks)]))

    def _advance(self, running: _Running[Key], completions: list[Completion] | None) -> list[Ask]:
        """The dialogue's next round; none when it has ended."""
        try:
            asks = next(running.dialogue) if completions is None else running.dialogue.send(completions)
        except StopIteration as end:
            self._end(running, Status.OK, end.value)
            return []
        except TaskError as error:
            running.error = str(error)
        except Exception as error:  # noqa: BLE001 - one document never fails a job, not even by a bug in a task
            log.error("task %s failed on a document: %s", running.task_name, type(error).__name__)
            places = "".join(traceback.format_tb(error.__traceback__))
            log.debug("where: %s", places)  # without the error's text, which may be the document's
            running.error = f"task_error: {type(error).__name__} in task {running.task_name!r}; see the log"
        else:
            running.completions, running.num_outstanding = [None] * len(asks), len(asks)
            if asks:
                return asks
            running.error = f"task_error: task {running.task_name!r} asked nothing and gave no answer"
        self._end(running, Status.FAILED)
        return []

    def _end(self, running: _Running[Key], status: Status, columns: dict[str, object] | None = None) -> None:
        keys = running.request_keys
        answer = Answer(
            status,
            columns or {},
            error=running.error,
            usage=running.usage,
            finish_reason=("length" if running.cut_off else "stop") if status is Status.OK else None,
            request_key=keys[0]
            if len(keys) == 1
            else xxhash.xxh3_128_hexdigest("".join(keys).encode())
            if keys
            else None,
            num_requests=len(keys),
            num_duplicates=running.num_duplicates,
            num_reused=running.num_reused,
            num_near_duplicates=running.num_near_duplicates,
            spared=running.spared,
            spared_by_near_duplicates=running.spared_by_near_duplicates,
            near_duplicate_of=running.near_duplicate_of,
        )
        failed = (
            FailedRequest(*running.last) if status is Status.FAILED and running.last is not None else None
        )
        seconds = 0.0 if running.asked_at is None else time.monotonic() - running.asked_at
        self._finished.append(Finished(running.key, running.task_name, answer, failed, seconds))
