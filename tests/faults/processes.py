"""The processes of one disturbed job: started here, found by a mark in their environment, ended by their own pids."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from servers.process import ServerProcess

MARK = "DOCMILL_FAULTS_JOB"  # starts with DOCMILL_: Ray's workers get it from the driver
ENGINE = "docmill.engine.engine_host"


def new_mark() -> dict[str, str]:
    """For the environment of everything that belongs to one job."""
    return {MARK: uuid.uuid4().hex}


class Run(ServerProcess):
    """One attempt at the job: `docmill run`, or Dagster. Dies with whoever started it."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        super().__init__(*command, log=log, env=dict(env))

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float) -> int:
        """Its exit status. Raises `TimeoutError` with the end of its log."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {timeout_seconds:.0f} s; {self.tail()}") from None

    def tail(self) -> str:
        """The end of what it printed."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-6:])[-1500:]


def marked(mark: str) -> list[psutil.Process]:
    """All living processes with this mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def engines(mark: str) -> list[psutil.Process]:
    """The engines' own processes."""
    found = []
    for process in marked(mark):
        with suppress(psutil.Error):
            if ENGINE in process.cmdline():
                found.append(process)
    return found


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until_gone(mark: str, timeout_seconds: float) -> list[str]:
    """The commands of those that are still there after the timeout."""
    end = time.monotonic() + timeout_seconds
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.2)
    return [describe(process) for process in left]


def describe(process: psutil.Process) -> str:
    """For a failure's message."""
    with suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)


def kill_all(mark: str) -> None:
    """Whatever happened, nothing stays."""
    for _ in range(5):
        left = marked(mark)
        if not left:
            return
        for process in left:
            send(process.pid, signal.SIGKILL)
        time.sleep(0.3)
