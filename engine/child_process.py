"""Starts processes that cannot outlive this one, and ends them with everything they started.

Two halves of one promise. `start` (in the parent) makes the child the leader of a process group of its own, from a
thread that lasts as long as this process; `die_with` (in the child, first thing) asks the kernel for SIGKILL when that
thread ends. `multiprocessing` would not do: its spawned children import the user's main module again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

Popen = subprocess.Popen[bytes]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STDERR = 2


class _Starter:
    """A thread that lasts as long as this process and starts children on request.

    The death signal follows the thread that forked, not its process: a caller's thread may end long before its child.
    A daemon, which an executor's thread is not: those end before the program does, and their children with them.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Popen], Future[Popen]]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, start: Callable[[], Popen]) -> Popen:
        """Call it there; returns or raises what it does."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="docmill-starter", daemon=True)
                self._thread.start()
        future: Future[Popen] = Future()
        self._waiting.put((start, future))
        return future.result()

    def _run(self) -> None:
        while True:
            start, future = self._waiting.get()
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001 - the caller's to see
                future.set_exception(error)


_starter = _Starter()


def _after_fork() -> None:
    global _starter
    _starter = _Starter()  # a forked process has the object but not its thread


os.register_at_fork(after_in_child=_after_fork)


def start(module: str, arguments: Sequence[str], *, pass_fds: Sequence[int]) -> Popen:
    """Run `python -m module arguments... parent_pid`. What it prints goes to stderr: stdout is the caller's JSON."""
    # -P: what lies in the working folder is no part of the program.
    command = [sys.executable, "-P", "-m", module, *arguments, str(os.getpid())]
    return _starter.start(
        lambda: subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    )


def die_with(parent_pid: int) -> None:
    """In the child: end when the parent ends, whatever ends it and whatever this process is doing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os._exit(1)


def kill_group(pid: int) -> None:
    """SIGKILL for the child and for what it started. Before it is collected: until then its number is nobody else's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
