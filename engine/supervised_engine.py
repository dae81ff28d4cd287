"""An engine that survives its own death: every request submitted gets exactly one completion, whatever happens to it.

What `open_engine` gives to a run. A thread of its own starts an `EngineProcess`, passes completions on, and when the
process dies starts the next one and submits the unfinished requests again, in their order.

- Died or hung: restarted; with backoff where it answered nothing since the last start, and `engine.max_restarts` such
  starts in a row are the end (`EngineDied`).
- Requests that were there at two deaths run without the others, halved at each further death (`suspects`). One that is
  alone at two deaths comes back with the error `killed_engine`, but not before the engine has answered another
  request: an engine that dies of everything proves nothing about any request.
- Out of memory: restarted with half the batch (`batch_limits`), and held against no request until that is at its floor.

All of it is told in `incidents`.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_exponential_jitter,
)

from docmill.engine.batch_limits import lowered
from docmill.engine.config import EngineConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.errors import EngineDied, EngineError, ModelChanged
from docmill.engine.suspects import Suspects
from docmill.engine.types import Completion, EngineInfo, Incident, Load, Request, RequestError

WAIT_SECONDS = 60.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0
REFUSALS = (
    "prompt_too_long",
    "rejected",
)  # said before anything is computed: an engine that only dies says them too

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Ticket:
    """A request that has no completion yet."""

    request: Request
    attempts: int = 0
    running: bool = False  # the present engine has it


class SupervisedEngine:
    """Construction returns at once; `wait_until_loaded` before the first request.

    `start` starts an engine with the settings it is given and returns at once. Where an engine of `start` does not
    load, `start_plain` takes its place: it adds none of the settings that were tuned.
    """

    def __init__(
        self,
        start: Callable[[EngineConfig], EngineProcess],
        config: EngineConfig,
        *,
        start_plain: Callable[[EngineConfig], EngineProcess] | None = None,
    ):
        self._start_engine, self._start_plain, self._config = start, start_plain, config
        self._info: EngineInfo | None = None
        self._incidents: list[Incident] = []
        self._failure: EngineError | None = None
        self._lock = threading.Lock()  # around everything from here ...
        self._engine: EngineProcess | None = None
        self._serving = False
        self._tickets: dict[str, _Ticket] = {}
        self._suspects = Suspects()
        self._verdicts: list[Completion] = []  # held until the engine has shown that it can answer
        self._seconds_busy, self._num_tokens, self._num_steps, self._load = (
            0.0,
            0,
            0,
            Load(),
        )  # ... to here; of the engines that are gone
        self._num_submitted = self._num_taken = 0
        self._outbox: queue.SimpleQueue[Completion | None] = queue.SimpleQueue()  # None: wake up, it is over
        self._settled, self._closed, self._over = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="docmill-supervisor", daemon=True)
        self._thread.start()

    def wait_until_loaded(self, timeout_seconds: float | None = None) -> bool:
        """Whether the model answers by then. Raises what `EngineProcess.wait_until_loaded` raises."""
        if not self._settled.wait(timeout_seconds):
            return False
        if self._info is None:
            self._thread.join()
            raise self._failure or EngineDied("closed while it was loading", 0)
        return True

    @property
    def info(self) -> EngineInfo:
        """What is running; with lowered limits where memory had run out."""
        assert self._info is not None
        return self._info

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose completion has not been taken."""
        return self._num_submitted - self._num_taken

    @property
    def busy_seconds(self) -> float:
        """Seconds in which an engine had something to compute, those that died included."""
        with self._lock:
            return self._seconds_busy + (self._engine.busy_seconds if self._engine else 0.0)

    @property
    def num_tokens(self) -> int:
        """Tokens computed, also those that a death made worthless. As of a second ago."""
        with self._lock:
            return self._num_tokens + (self._engine.num_tokens if self._engine else 0)

    @property
    def num_steps(self) -> int:
        """Steps of all engines so far."""
        with self._lock:
            return self._num_steps + (self._engine.num_steps if self._engine else 0)

    @property
    def load(self) -> Load:
        """Of the present engine, with what those before it have computed."""
        with self._lock:
            return (self._engine.load if self._engine else Load()).after(self._load)

    @property
    def incidents(self) -> list[Incident]:
        """Every death so far, oldest first."""
        return self._incidents.copy()

    @property
    def process_id(self) -> int | None:
        """The present engine's process; None between two."""
        engine = self._engine
        return engine.process_id if engine else None

    def submit(self, request: Request) -> None:
        """Hand over one request; returns at once, also between two engines. Raises `EngineDied` when it is over."""
        self._raise_if_over()
        with self._lock:
            if request.id in self._tickets:
                raise ValueError(f"a request with the id {request.id!r} is in flight already")
            self._num_submitted += 1
            self._tickets[request.id] = _Ticket(request)
            if self._serving and self._suspects.group is None:
                self._send([request.id])

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """What has finished since the last call; waits up to the timeout for the first. Raises as `submit` does."""
        taken: list[Completion] = []
        over = self._over.is_set()  # read first: nothing comes after it
        try:
            item = self._outbox.get(timeout=0 if over else timeout_seconds)
            while True:
                if item is not None:
                    taken.append(item)
                item = self._outbox.get_nowait()
        except queue.Empty:
            pass
        self._num_taken += len(taken)
        if not taken and self._outbox.empty():
            self._raise_if_over()
        return taken

    def close(self) -> None:
        """End the engine and the thread, within seconds, whatever they are at. Requests in flight are dropped."""
        self._closed.set()
        with self._lock:
            engine = self._engine
        if engine is not None:
            engine.close()
        self._thread.join()

    def _raise_if_over(self) -> None:
        if self._over.is_set():
            failure = self._failure
            kind = failure.kind if isinstance(failure, EngineDied) else "died"
            message = failure.message if isinstance(failure, EngineDied) else str(failure or "closed")
            raise EngineDied(message, self.num_in_flight, kind) from failure

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                # One round of attempts after each answer. A death that only brings the search for a culprit, or for
                # a batch that fits, a step on neither counts against the round nor begins another.
                for attempt in Retrying(
                    retry=retry_if_exception_type(EngineDied),
                    stop=stop_any(
                        stop_after_attempt(self._config.max_restarts + 1), stop_when_event_set(self._closed)
                    ),
                    wait=wait_exponential_jitter(
                        multiplier=FIRST_BACKOFF_SECONDS, max=LONGEST_BACKOFF_SECONDS, jitter=0.5
                    ),
                    sleep=sleep_using_event(self._closed),
                    reraise=True,
                ):
                    last = attempt.retry_state.attempt_number > self._config.max_restarts
                    with attempt:
                        while not self._live(last=last):
                            pass
        except BaseException as error:  # whatever ends this thread must reach those who wait for it
            if not isinstance(error, EngineError):
                log.exception("the supervisor failed")
                error = EngineDied(f"{type(error).__name__}: {error}", len(self._tickets))
            self._failure = error
        finally:
            self._over.set()
            self._settled.set()
            self._outbox.put(None)

    def _live(self, *, last: bool) -> bool:
        """One engine from start to death. Returns whether it answered anything.

        Raises `EngineDied` when it did not and its death was no step further either.
        """
        with self._lock:
            if self._closed.is_set():
                return True
            self._engine = engine = self._start_engine(self._config)
        answered = loaded = False
        try:
            engine.wait_until_loaded()
            loaded = True
            if self._info is not None and engine.info.model_fingerprint != self._info.model_fingerprint:
                raise ModelChanged(engine.info.model)
            with self._lock:
                self._info, self._serving = engine.info, True
                self._send_due()
            self._settled.set()
            while True:
                answered |= self._pass_on(engine.completions(WAIT_SECONDS))
        except EngineDied as error:
            death = error
        except ModelChanged:
            raise
        except EngineError as error:
            if self._info is None and self._start_plain is None:
                raise
            # It has loaded before: the memory of the dead one may not be free yet, or the disk was away. Or what was
            # tuned does not fit any more.
            death = EngineDied(str(error), 0)
        finally:
            with self._lock:
                self._serving = False
            engine.close()
        with self._lock:
            self._engine = None
            self._seconds_busy += engine.busy_seconds
            self._num_tokens += engine.num_tokens
            self._num_steps += engine.num_steps
            self._load = engine.load.after(self._load)
            came_further = not self._closed.is_set() and (
                (not loaded and self._go_plain(death)) or self._bury(death, answered=answered, last=last)
            )
        if not (answered or came_further or self._closed.is_set()):
            raise death
        return answered or self._closed.is_set()

    def _send_due(self) -> None:
        group = self._suspects.group
        self._send(list(self._tickets) if group is None else group)

    def _send(self, request_ids: Iterable[str]) -> None:
        assert self._engine is not None
        for request_id in request_ids:
            ticket = self._tickets[request_id]
            try:
                self._engine.submit(ticket.request)
            except EngineDied:  # the thread that takes its completions acts on it
                return
            ticket.running = True
            ticket.attempts += 1

    def _pass_on(self, completions: list[Completion]) -> bool:
        """Completions to the caller. Returns whether any of them shows that the engine computes."""
        computed = any(
            completion.error is None or completion.error.reason not in REFUSALS for completion in completions
        )
        with self._lock:
            next_group = False
            for completion in completions:
                ticket = self._tickets.pop(completion.request_id)
                next_group |= self._suspects.finished(completion.request_id)
                if ticket.attempts > 1:
                    completion = replace(completion, attempts=ticket.attempts)
                self._outbox.put(completion)
            if computed:
                self._pronounce()
            if next_group:
                self._send_due()
        return computed

    def _pronounce(self) -> None:
        for verdict in self._verdicts:
            self._outbox.put(verdict)
        self._verdicts.clear()

    def _go_plain(self, death: EngineDied) -> bool:
        """Whether the next engine differs from this one, which has not loaded, in that nothing of it is tuned."""
        if self._start_plain is None:
            return False
        self._start_engine, self._start_plain = self._start_plain, None
        self._note(death, 0, "started without what was tuned", {})
        return True

    def _note(self, death: EngineDied, num_present: int, action: str, limits: Mapping[str, int]) -> None:
        incident = Incident(death.kind, datetime.now(UTC), num_present, death.message, action, limits)
        self._incidents.append(incident)
        log.warning(
            "engine_death kind=%s in_flight=%d reason=%r action=%r",
            death.kind,
            num_present,
            death.message,
            action,
        )

    def _bury(self, death: EngineDied, *, answered: bool, last: bool) -> bool:
        """Decide what the next engine does. Returns whether this death has brought us nearer to the end."""
        present = [request_id for request_id, ticket in self._tickets.items() if ticket.running]
        for request_id in present:
            self._tickets[request_id].running = False
        less = lowered(self._config, self._info) if death.kind == "out_of_memory" else None
        limits: dict[str, int] = {}
        came_further = False
        if less is not None:
            self._config, limits = less
            came_further = bool(present)  # while loading, a smaller batch may be no help
            action = "restarted with " + ", ".join(f"{name}={limit}" for name, limit in limits.items())
        else:
            halving = self._suspects.group is not None
            culprit = self._suspects.died(present)
            came_further = halving and bool(present) and culprit is None
            if culprit is not None:
                self._condemn(culprit, death)
                action = "one request given up, the others sent again"
            elif self._suspects.group is not None:
                number = len(self._suspects.group)
                action = f"{number} of {self._suspects.num_under_suspicion} suspected requests run alone"
            else:
                action = f"restarted, {len(present)} requests sent again"
        if last and not (answered or came_further):
            action = f"given up after {self._config.max_restarts} restarts without an answer"
        self._note(death, len(present), action, limits)
        return came_further

    def _condemn(self, request_id: str, death: EngineDied) -> None:
        ticket = self._tickets.pop(request_id)
        message = f"the engine {death.kind.replace('_', ' ')} {ticket.attempts} times with it, at last with it alone"
        error = RequestError("killed_engine", f"{message}: {death.message}")
        self._verdicts.append(Completion(request_id, error=error, attempts=ticket.attempts))
        if not self._tickets:  # no other request left to prove the engine with
            self._pronounce()
