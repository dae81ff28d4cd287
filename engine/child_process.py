"""Starts processes that cannot outlive this one, and ends them with everything they started.

Two halves of one promise. `start` (in the parent) makes the child the leader of a process group of its own, from a
thread that lasts as long as this process; `die_with` (in the child, first thing) asks the kernel for SIGKILL when that
thread ends. `multiprocessing` would not do: its spawned children import the user's main module again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STDERR = 2


def _new_starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="docmill-starter")


# The death signal follows the thread that forked, not its process: a caller's thread may end long before its child.
_starter = _new_starter()


def _after_fork() -> None:
    global _starter
    _starter = _new_starter()  # a forked process has the object but not its thread


os.register_at_fork(after_in_child=_after_fork)


def start(module: str, arguments: Sequence[str], *, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """Run `python -m module arguments... parent_pid`. What it prints goes to stderr: stdout is the caller's JSON."""
    # -P: what lies in the working folder is no part of the program.
    command = [sys.executable, "-P", "-m", module, *arguments, str(os.getpid())]
    return _starter.submit(
        subprocess.Popen,
        command,
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    ).result()


def die_with(parent_pid: int) -> None:
    """In the child: end when the parent ends, whatever ends it and whatever this process is doing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os._exit(1)


def kill_group(pid: int) -> None:
    """SIGKILL for the child and for what it started. Before it is collected: until then its number is nobody else's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
