"""An engine in a process of its own, behind the same `Engine` door: its death is not ours, and is seen at once.

The parent never imports torch or vLLM. Requests and completions travel in batches over a socket pair, each way by a
thread of its own, so that `submit` never waits for the engine. The child (`engine_host`) sends a beat every second; one
that makes no step while it has requests is killed. `supervised_engine` restarts what died here.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from docmill.engine import child_process
from docmill.engine.errors import EngineDied, EngineError
from docmill.engine.out_of_memory import num_oom_kills
from docmill.engine.process_messages import Answers, Beat, Died, Loaded, LoadFailed, Opening
from docmill.engine.types import Completion, DeathKind, Engine, EngineInfo, Incident, Load, Request

TICK_SECONDS = 0.5
CLOSE_SECONDS = 3.0  # for an engine to give back its memory by itself
SMALLEST_LOADING_HANG_SECONDS = 60.0  # importing torch holds Python's lock for seconds: no beats meanwhile
NEARLY_FULL = 0.9
MAX_BATCH = 256


class EngineProcess:
    """Starts the process and returns at once; `wait_until_loaded` before the first request.

    `open_engine` is called in the child and must be picklable by reference, as `partial(VllmEngine, ...)` is.
    """

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        *,
        hang_seconds: float = 300.0,
        memory_gib: float | None = None,
    ):
        self.incidents: list[Incident] = []  # it survives none; see `supervised_engine`
        self._hang_seconds = hang_seconds
        self._memory_bytes = int(memory_gib * 2**30) if memory_gib is not None else None
        self._info: EngineInfo | None = None
        self._load_error: EngineError | None = None
        self._death: tuple[DeathKind, str] | None = None
        self._settled = threading.Event()  # loaded, or never will be
        self._ending = threading.Lock()  # around the kill and the collecting of the child
        self._ended = False
        self._beat = Beat()
        self._num_submitted = self._num_received = self._num_taken = 0
        self._outgoing: queue.SimpleQueue[Request | None] = queue.SimpleQueue()  # None: stop
        self._outbox: queue.SimpleQueue[Completion | None] = queue.SimpleQueue()  # None: wake up, it died
        self._num_oom_kills = num_oom_kills()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = child_process.start(
                    "docmill.engine.engine_host", [str(theirs.fileno())], pass_fds=[theirs.fileno()]
                )
            except BaseException:
                ours.close()
                raise
        self._connection = Connection(ours.detach())
        with contextlib.suppress(OSError):  # it is gone already; the receiver finds out why
            self._send_message(Opening(pickle.dumps(open_engine), sys.path.copy(), self._memory_bytes))
        self._sender = threading.Thread(target=self._send, name="docmill-engine-send", daemon=True)
        self._receiver = threading.Thread(target=self._receive, name="docmill-engine-receive", daemon=True)
        self._sender.start()
        self._receiver.start()

    @property
    def process_id(self) -> int:
        """The child's, which is also its process group's."""
        return self._process.pid

    @property
    def info(self) -> EngineInfo:
        """What is running, once it is loaded."""
        assert self._info is not None, "wait_until_loaded first"
        return self._info

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose completion has not been taken."""
        return self._num_submitted - self._num_taken

    @property
    def busy_seconds(self) -> float:
        """Seconds in which the engine had something to compute; as of the child's last message."""
        return self._beat.busy_seconds

    @property
    def num_steps(self) -> int:
        """Steps of the engine, as of the child's last message."""
        return self._beat.num_steps

    @property
    def num_tokens(self) -> int:
        """Tokens computed, as of the child's last message."""
        return self._beat.num_tokens

    @property
    def load(self) -> Load:
        """How full the engine is, as of the child's last message."""
        return self._beat.load

    def wait_until_loaded(self) -> None:
        """Returns when the model answers. Raises `ModelError`, `EngineConfigError` or `EngineDied`."""
        self._settled.wait()
        if self._load_error is not None:
            raise self._load_error
        if self._info is None:
            raise self._died()

    def submit(self, request: Request) -> None:
        """Hand over one request; returns at once."""
        if self._ended:
            raise self._died()
        self._num_submitted += 1
        self._outgoing.put(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """What has finished since the last call; waits up to the timeout for the first.

        All that finished before the engine died comes before `EngineDied` is raised.
        """
        taken: list[Completion] = []
        ended = self._ended  # read first: nothing comes after it
        with contextlib.suppress(queue.Empty):
            item = self._outbox.get(timeout=0 if ended else timeout_seconds)
            while True:
                if item is not None:
                    taken.append(item)
                item = self._outbox.get_nowait()
        self._num_taken += len(taken)
        if not taken and self._ended and self._outbox.empty():
            raise self._died()
        return taken

    def close(self) -> None:
        """End the process: asked first, killed after three seconds. From any thread, also while it loads."""
        self._outgoing.put(None)
        self._receiver.join(timeout=CLOSE_SECONDS)
        if self._receiver.is_alive():
            self._kill("died", "closed")
            self._receiver.join()
        self._sender.join()
        with self._ending:
            self._connection.close()

    def _died(self) -> EngineDied:
        assert self._death is not None
        kind, message = self._death
        return EngineDied(message, self.num_in_flight, kind)

    def _send_message(self, message: Any) -> None:
        self._connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # the child is gone; the receiver finds out why
            while True:
                batch = [self._outgoing.get()]
                with contextlib.suppress(queue.Empty):
                    while len(batch) < MAX_BATCH:
                        batch.append(self._outgoing.get_nowait())
                if requests := [request for request in batch if request is not None]:
                    self._send_message(requests)
                if len(requests) < len(batch):
                    self._send_message(None)
                    return

    def _receive(self) -> None:
        stalled, last = 0.0, time.monotonic()
        try:
            while True:
                steps, idle = self.num_steps, self._num_submitted == self._num_received
                if self._connection.poll(TICK_SECONDS):
                    self._take(pickle.loads(self._connection.recv_bytes()))
                    if self._info is None or self.num_steps != steps:
                        stalled = 0.0
                now = time.monotonic()
                # Bounded, so that a pause of this process (Ctrl-Z, a frozen container) is not taken for the child's.
                stalled += min(now - last, 2 * TICK_SECONDS)
                last = now
                allowed = self._hang_seconds
                if self._info is None:
                    allowed = max(allowed, SMALLEST_LOADING_HANG_SECONDS)
                elif idle:
                    stalled = 0.0
                if stalled > allowed:
                    self._kill("hung", f"no step for {allowed:g} seconds")
                    stalled = 0.0
        except (EOFError, OSError):
            self._end()

    def _take(self, message: Answers | Loaded | LoadFailed | Died) -> None:
        match message:
            case Answers():
                self._beat = message.beat
                self._num_received += len(message.completions)
                for completion in message.completions:
                    self._outbox.put(completion)
            case Loaded():
                self._info = message.info
                self._settled.set()
            case LoadFailed():
                self._load_error = message.error
            case Died():
                self._death = (message.kind, message.message)

    def _kill(self, kind: DeathKind, message: str) -> None:
        with self._ending:
            if not self._ended:
                self._death = self._death or (kind, message)
                child_process.kill_group(self._process.pid)

    def _end(self) -> None:
        """Collect the child, which has closed its connection or is gone, and tell those who wait."""
        with self._ending:
            child_process.kill_group(self._process.pid)
            status = self._process.wait()
            self._death = self._death or self._silent_death(status)
            if self._death[0] == "died" and num_oom_kills() > self._num_oom_kills:
                # One of a parallel model's processes: the host that is left knows only that it is gone.
                self._death = (
                    "out_of_memory",
                    f"{self._death[1]}; the kernel killed a process because memory ran out",
                )
            self._ended = True
        self._outgoing.put(None)
        self._outbox.put(None)
        self._settled.set()

    def _silent_death(self, status: int) -> tuple[DeathKind, str]:
        message = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        limit = self._memory_bytes
        # Libraries that cannot allocate end the process where an exception has no way out.
        if limit is not None and status != -signal.SIGKILL and self._beat.memory_bytes > NEARLY_FULL * limit:
            return "out_of_memory", f"{message} close to engine.memory_gib"
        return "died", message
