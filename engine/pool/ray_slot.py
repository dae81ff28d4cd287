"""One place for a worker on Ray: who is in it now, and how often it was filled again.

Called by `RayPool`, which decides when; a slot knows how. The way of a slot:

    waiting --start--> starting --began--> running --> ended
       ^                  |                   |
       +------lost--------+-------lost--------+        (ended, once the restarts are used up)
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from docmill.engine.pool.ray_worker import RayWorker, WorkerEnvironment
from docmill.engine.pool.types import LostWorker, Work

log = logging.getLogger(__name__)

_LONGEST_BACKOFF_SECONDS = 30.0
_SECONDS_THAT_FORGIVE = 600.0  # a worker that lived so long was not lost for a reason that comes back at once


@dataclass(frozen=True, slots=True)
class Room:
    """What Ray sets aside for one worker, all of it on one machine."""

    num_cpus: int
    num_gpus: float
    is_tensor_parallel: bool

    def __str__(self) -> str:
        return f"{self.num_cpus} CPUs and {self.num_gpus:g} GPUs"


class RaySlot:
    """Starts, stops and replaces the worker of one place."""

    def __init__(self, index: int, room: Room, max_restarts: int) -> None:
        self.ended = False
        self.running = False
        self.was_lost = False
        self.name = ""
        self._index = index
        self.room = room
        self._restarts_left = max_restarts
        self._max_restarts = max_restarts
        self._start_at = 0.0  # monotonic, as all times here
        self._began_at = 0.0
        self._actor: Any = None
        self._group: Any = None
        self.ref: Any = None  # of the call under way: its start, then its work

    def is_due(self) -> bool:
        """Is it time to start a worker here?"""
        return not self.ended and self._actor is None and time.monotonic() >= self._start_at

    def start(self, number: int, environment: WorkerEnvironment) -> None:
        """Ask Ray for a worker; it comes when there is room."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        room = self.room
        self.name = f"worker-{self._index}"  # until the worker tells its own
        strategy: Any = "SPREAD"
        if room.is_tensor_parallel:
            # One bundle: the GPUs of a model cut in parts are on one machine, and stay kept for the next worker here.
            bundle = {"CPU": room.num_cpus, "GPU": room.num_gpus}
            if self._group is None:
                bundle = {name: amount for name, amount in bundle.items() if amount}
                self._group = ray.util.placement_group([bundle], strategy="STRICT_PACK")
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)
        actor_class = ray.remote(RayWorker).options(
            num_cpus=room.num_cpus,
            num_gpus=room.num_gpus,
            max_concurrency=2,  # the work, and `stop`
            max_restarts=0,  # a worker is started again by us, with a name of its own
            scheduling_strategy=strategy,
        )
        self._actor = actor_class.remote(number, room.num_gpus)
        self.ref = self._actor.start.remote(environment)

    def begin(self, name: str, work: Work) -> None:
        """The worker has told its name: give it the work."""
        self.name = name
        self.running = True
        self._began_at = time.monotonic()
        self.ref = self._actor.run.remote(work)

    def ask_to_stop(self) -> Any:
        """The worker sees `stopping` from now on; returns the call's reference."""
        return self._actor.stop.remote()

    def lose(self, reason: str, *, restart: bool) -> LostWorker:
        """The worker is gone. Another comes after a pause, unless it may not or came too often."""
        lost = LostWorker(self.name, reason)
        if self.running and time.monotonic() - self._began_at >= _SECONDS_THAT_FORGIVE:
            self._restarts_left = self._max_restarts
        self._drop_actor()
        self.was_lost = True
        if restart and self._restarts_left:
            backoff = min(2.0 ** (self._max_restarts - self._restarts_left), _LONGEST_BACKOFF_SECONDS)
            self._restarts_left -= 1
            self._start_at = time.monotonic() + backoff
            log.warning("worker_lost name=%s restart_in_seconds=%g reason=%r", lost.name, backoff, reason)
        else:
            self.close()
            log.warning("worker_lost name=%s restart=no reason=%r", lost.name, reason)
        return lost

    def close(self) -> None:
        """End whatever is here, at once; a worker that is to end well has ended before. Safe to call twice."""
        import ray

        self._drop_actor()
        self.ended = True
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
            self._group = None

    def _drop_actor(self) -> None:
        import ray

        if self._actor is not None:
            ray.kill(self._actor, no_restart=True)
        self._actor = self.ref = None
        self.running = False
