"""Workers as actors on Ray: on this machine or all over a cluster. The driver's side.

The driver starts a worker in each of its slots, waits for them, and starts again what is lost. It moves no data: the
workers read and write storage themselves. Ray is imported when a run starts, so that a job can be read without it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from docmill.engine.pool.errors import PoolConfigError, PoolLost, WorkerError
from docmill.engine.pool.ray_session import ray_session
from docmill.engine.pool.ray_slot import RaySlot, Room
from docmill.engine.pool.ray_worker import WorkerEnvironment, WorkerFailure
from docmill.engine.pool.types import POLL_SECONDS, LostWorker, PoolResult, Work, WorkerResult

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 25.0  # a run that is told to stop has ended after 30


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What one worker needs, as the job says it. `None` is settled when it is known what Ray has."""

    num_gpus: float | None = None  # None: one for each part of the model where there are GPUs, else none
    num_cpus: int | None = None  # None: an equal part of this machine for a Ray of our own, else 1
    tensor_parallel_size: int = 1


class RayPool:
    """`workers` actors. See `Pool` for what `run` promises, and `PoolConfig` for what the numbers mean."""

    def __init__(
        self,
        *,
        workers: int,
        resources: WorkerResources | None = None,
        address: str | None = None,
        max_worker_restarts: int = 3,
        start_timeout_seconds: float = 600,
        stop_grace_seconds: float = STOP_GRACE_SECONDS,
    ) -> None:
        self._workers = workers
        self._resources = resources or WorkerResources()
        self._address = address
        self._max_worker_restarts = max_worker_restarts
        self._start_timeout_seconds = start_timeout_seconds
        self._stop_grace_seconds = stop_grace_seconds

    def run(
        self,
        work: Work,
        *,
        on_poll: Callable[[], None],
        stop: threading.Event,
        poll_seconds: float = POLL_SECONDS,
    ) -> PoolResult:
        """See `Pool.run`. Raises also `PoolUnreachable`, `PoolConfigError` and `WorkerError`."""
        cores = os.cpu_count() or 1
        own_share = 1 if self._address else max(1, cores // self._workers)
        num_cpus = self._resources.num_cpus or own_share
        started_at = time.monotonic()
        with ray_session(address=self._address, num_cpus=max(cores, num_cpus * self._workers)) as session:
            log.info("ray_ready own=%s seconds=%.1f", session.is_ours, time.monotonic() - started_at)
            room = self._room(num_cpus, can_grow=not session.is_ours)
            slots = [RaySlot(index, room, self._max_worker_restarts) for index in range(self._workers)]
            run = _Run(self, work, slots, WorkerEnvironment.of(os.environ))
            try:
                run.drive(on_poll, stop, poll_seconds)
            finally:
                session.keep_logs = bool(run.lost)
                for slot in slots:
                    slot.close()
        return run.result(stopped=stop.is_set())

    def _room(self, num_cpus: int, *, can_grow: bool) -> Room:
        """What a worker gets. Raises `PoolConfigError` where this machine, all that there is, has too little."""
        import ray

        parts = self._resources.tensor_parallel_size
        has_gpus = ray.cluster_resources().get("GPU", 0.0)
        num_gpus = self._resources.num_gpus
        if num_gpus is None:
            num_gpus = float(parts) if has_gpus else 0.0
        if not can_grow and num_gpus * self._workers > has_gpus:
            raise PoolConfigError(
                f"{self._workers} workers with {num_gpus:g} GPUs each need {num_gpus * self._workers:g}; this machine "
                f"has {has_gpus:g}. Fewer `pool.workers`, `engine.device: cpu`, or a cluster's `pool.address`"
            )
        return Room(num_cpus, num_gpus, is_tensor_parallel=parts > 1)


class _Run:
    """One run of a pool: its slots, and what has become of them."""

    def __init__(
        self, pool: RayPool, work: Work, slots: list[RaySlot], environment: WorkerEnvironment
    ) -> None:
        self.lost: list[LostWorker] = []
        self._results: list[WorkerResult] = []
        self._error: Exception | None = None  # concerns the whole job: raised once the others have ended
        self._last_failure: Exception | None = None
        self._pool = pool
        self._work = work
        self._slots = slots
        self._environment = environment
        self._num_started = 0
        self._room_since = time.monotonic()  # when a worker last ran, or the run began
        self._stop_refs: list[Any] = []  # held, or Ray complains of those that nobody asked about
        self._kill_at: float | None = None  # set when the workers have been told to stop

    def drive(self, on_poll: Callable[[], None], stop: threading.Event, poll_seconds: float) -> None:
        """Until every slot has ended."""
        import ray

        while True:
            if (stop.is_set() or self._error is not None) and self._kill_at is None:
                self._ask_all_to_stop()
            self._start_those_due()
            open_slots = [slot for slot in self._slots if not slot.ended]
            if not open_slots:
                return
            by_ref = {slot.ref: slot for slot in open_slots if slot.ref is not None}
            if by_ref:
                ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=poll_seconds)
                for ref in ready:
                    self._settle(by_ref[ref], ref)
            else:
                stop.wait(poll_seconds)
            self._give_up_waiting()
            on_poll()

    def result(self, *, stopped: bool) -> PoolResult:
        """What `Pool.run` gives back, or raises."""
        if self._error is not None:
            raise self._error
        if not self._results and not stopped:
            raise PoolLost(self.lost) from self._last_failure
        return PoolResult(tuple(self._results), tuple(self.lost))

    def _start_those_due(self) -> None:
        for slot in self._slots:
            # What has never run has claimed nothing, and one that ended well found nothing left to claim.
            if self._results and not slot.running and not slot.was_lost:
                slot.close()
            elif slot.is_due() and self._kill_at is None:
                slot.start(self._num_started, self._environment)
                self._num_started += 1

    def _settle(self, slot: RaySlot, ref: Any) -> None:
        """A call has come back: the worker is there, or has ended, or is lost."""
        import ray

        try:
            value = ray.get(ref)
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                self._error = self._error or WorkerError(slot.name, _creation_failure(error))
                slot.close()
            else:
                self.lost.append(slot.lose(_short_reason(error), restart=self._kill_at is None))
        except ray.exceptions.RayError as error:  # the work or its result does not cross to another process
            self._error = self._error or WorkerError(slot.name, str(error).strip())
            slot.close()
        else:
            if not slot.running:
                slot.begin(value, self._work)
                log.info("worker_started name=%s", slot.name)
            elif isinstance(value, WorkerFailure):
                self._settle_failure(slot, value)
            else:
                self._results.append(WorkerResult(slot.name, value))
                slot.close()

    def _settle_failure(self, slot: RaySlot, failure: WorkerFailure) -> None:
        """The work gave up. What may pass is this worker's alone, after its own retries: the others go on."""
        error = failure.error(slot.name)
        if failure.retryable:
            self._last_failure = error
            self.lost.append(slot.lose(failure.message, restart=False))
        else:
            self._error = self._error or error
            slot.close()

    def _ask_all_to_stop(self) -> None:
        grace = self._pool._stop_grace_seconds
        self._kill_at = time.monotonic() + grace
        for slot in self._slots:
            if slot.running:
                self._stop_refs.append(slot.ask_to_stop())
            else:
                slot.close()

    def _give_up_waiting(self) -> None:
        """Workers that do not end though told to, and workers for which there is no room."""
        now = time.monotonic()
        open_slots = [slot for slot in self._slots if not slot.ended]
        if self._kill_at is not None and now >= self._kill_at:
            reason = (
                f"killed: it had not ended {self._pool._stop_grace_seconds:g} seconds after it was told to"
            )
            self.lost += [slot.lose(reason, restart=False) for slot in open_slots]
        elif any(
            slot.running or slot.ref is None for slot in open_slots
        ):  # no call under way: a pause after a loss
            self._room_since = now
        elif now - self._room_since >= self._pool._start_timeout_seconds:
            reason = (
                f"Ray had no room for it ({self._slots[0].room}) for {now - self._room_since:.0f} seconds; "
                f"`ray status` on the cluster shows what there is"
            )
            self.lost += [slot.lose(reason, restart=False) for slot in open_slots]


def _short_reason(error: Exception) -> str:
    """Ray's account without its lines of ids and its advice."""
    text = re.sub(
        r"^\s*(class_name|actor_id|pid|name|namespace|ip): .*\n", "", str(error), flags=re.MULTILINE
    )
    text = text.partition("Some common causes include")[0]
    text = re.sub(
        r"The actor (died unexpectedly before finishing this task\.|\w+ is unavailable:)|"
        r"The task may or may not have been executed on the actor\.",
        "",
        text,
    )
    return " ".join(text.split())[:400] or type(error).__name__


def _creation_failure(error: Exception) -> str:
    return f"it does not start; is docmill installed on every machine of the cluster? {_short_reason(error)}"
