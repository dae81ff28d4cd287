"""The default pool: one worker, in this process and thread, with no machinery between it and its caller."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from docmill.engine.pool.types import POLL_SECONDS, PoolResult, Work, WorkerContext, WorkerResult


class InlinePool:
    """Calls the work function. What it raises is raised here; `on_poll` comes from the work's own `poll()`."""

    def run(
        self,
        work: Work,
        *,
        on_poll: Callable[[], None],
        stop: threading.Event,
        poll_seconds: float = POLL_SECONDS,
    ) -> PoolResult:
        """See `Pool.run`."""
        name = f"{socket.gethostname()}-{os.getpid()}-0"
        worker = WorkerContext(name, 0, stop, on_poll, poll_seconds)
        return PoolResult((WorkerResult(name, work(worker)),))
