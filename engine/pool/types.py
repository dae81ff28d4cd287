"""The contract between a job and the pool that runs its workers. A pool knows nothing of documents or units.

The caller hands over one *work function*, which every worker runs once, and takes back what each of them returned.
The function has to be importable and its arguments picklable, because on Ray it runs in another process, maybe on
another machine: a module's function, or a `functools.partial` of one. How the work is shared out is its own affair
(the ledger's claims); so is what a lost worker had begun, which the others or a later run take over.

A worker may be started when the others have done everything: look for something to do before loading a model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

POLL_SECONDS = 0.5


@dataclass(slots=True)
class WorkerContext:
    """What a work function knows of its place in the pool. Given to it as its only argument."""

    name: str  # unique among all workers of a run, those started again included: host-pid-number
    num_gpus: float  # kept for this worker by the pool; an inline pool keeps none
    stop: threading.Event
    on_poll: Callable[[], None] | None = None  # None: the pool calls it elsewhere
    poll_seconds: float = POLL_SECONDS
    _polled_at: float = field(default=float("-inf"), repr=False)

    @property
    def stopping(self) -> bool:
        """Look at it often: once true, admit nothing new, make durable what is done, and return."""
        return self.stop.is_set()

    def poll(self) -> None:
        """Call it as often as you like: lets an inline pool's caller show progress; on Ray it does nothing."""
        now = time.monotonic()
        if self.on_poll is not None and now - self._polled_at >= self.poll_seconds:
            self._polled_at = now
            self.on_poll()


Work = Callable[[WorkerContext], Any]


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """A worker that ended well, and what its work function returned."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that died, was killed, or gave up. One that is started again is a new worker with a new name."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolResult:
    """How the workers ended. `lost` may name some beside a job that the others completed: ask the ledger."""

    results: tuple[WorkerResult, ...]
    lost: tuple[LostWorker, ...] = ()

    @property
    def values(self) -> list[Any]:
        """What the work functions returned."""
        return [result.value for result in self.results]


class Pool(Protocol):
    """The workers of a run. An instance may run several times, one after the other."""

    def run(
        self,
        work: Work,
        *,
        on_poll: Callable[[], None],
        stop: threading.Event,
        poll_seconds: float = POLL_SECONDS,
    ) -> PoolResult:
        """Let every worker do the work; returns when all have ended.

        `on_poll` is called about every `poll_seconds` in the caller's thread: the place to show progress, and to set
        `stop`, after which workers end early but cleanly. An error that concerns the whole job is raised with its own
        type. Raises `PoolLost` when no worker is left, which a later run may repair.
        """
        ...
