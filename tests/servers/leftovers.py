"""Finds processes that the tests started and nobody ended, also those whose own parent is gone."""

import os
import time
import uuid

import psutil

# Every process started from here on inherits it, which a parent's death does not change.
_MARK = "DOCMILL_TEST_SESSION"


def mark_session() -> None:
    os.environ[_MARK] = uuid.uuid4().hex


def leftover_processes(*, grace_seconds: float = 5) -> list[psutil.Process]:
    """Those still running after the grace, given to ones that are on their way out."""
    end = time.monotonic() + grace_seconds
    while (found := _running()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _running() -> list[psutil.Process]:
    children = {process.pid for process in psutil.Process().children(recursive=True)}
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_ours(p, children)]


def _is_ours(process: psutil.Process, children: set[int]) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False  # has ended; a container's init may never collect it
        if "multiprocessing.resource_tracker" in " ".join(process.cmdline()):
            return False  # Python's own: lives as long as pytest and ends with it
        return process.pid in children or process.environ().get(_MARK) == os.environ.get(_MARK)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
