"""What SIGTERM and Ctrl-C do to a run: it stops admitting, makes durable what is done, and ends within half a minute.

`docmill run` and the Dagster step wrap `run_partition` in it. While nothing is under way that could be lost (planning,
writing output files), a signal does what it did before: it interrupts at once.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from docmill.ops.progress import OnProgress, Progress
from docmill.pipelines.exit_codes import ExitCode

STOP_SECONDS = 30.0  # what Kubernetes and others give a process between SIGTERM and SIGKILL
_HEEDING_STAGES = (
    "loading model",
    "running",
)  # those in which workers look at `stop`; see `ops.progress.Progress`
_GAVE_UP = "docmill: not everything could be written in time, ending; what is durable is kept\n"


class StopSignals:
    """Use as a context manager around `run_partition(..., stop=signals.stop, on_progress=signals.on_progress)`.

    `on_stop` is called once, in another thread, when a signal has set `stop`. With `impatient`, a second Ctrl-C ends
    the process at once, and so does a stop that takes longer than `STOP_SECONDS`; without, later signals are ignored.
    In a thread other than the main one, which gets no signals, nothing happens.
    """

    def __init__(
        self, on_progress: OnProgress, *, on_stop: Callable[[], None] = lambda: None, impatient: bool = False
    ):
        self.stop = threading.Event()
        self._show, self._on_stop, self._impatient = on_progress, on_stop, impatient
        self._stage = ""
        self._signalled = False
        self._before: dict[int, Any] = {}
        # Between the handler and a thread: neither `Event.set` nor printing is safe in a handler, which may come while
        # the main thread holds their locks. A SimpleQueue's `put` is.
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._wait_for_news, name="docmill-signals", daemon=True)

    def on_progress(self, progress: Progress) -> None:
        """Take a snapshot on its way to whoever shows it."""
        self._stage = progress.stage
        self._show(progress)

    def __enter__(self) -> Self:
        self._thread.start()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._news.put("ended")
        self._thread.join()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            if self._impatient and number == signal.SIGINT:
                os._exit(ExitCode.INTERRUPTED)
            return
        self._signalled = True
        if self._stage in _HEEDING_STAGES:
            self._news.put("stop")
            return
        before = self._before[number]
        (before if callable(before) else signal.default_int_handler)(number, frame)

    def _wait_for_news(self) -> None:
        if self._news.get() != "stop":
            return
        self.stop.set()
        self._on_stop()
        if not self._impatient:
            return
        try:
            self._news.get(timeout=STOP_SECONDS)
        except queue.Empty:
            os.write(2, _GAVE_UP.encode())
            os._exit(ExitCode.INTERRUPTED)
