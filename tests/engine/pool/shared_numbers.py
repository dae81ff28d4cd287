"""Work for the pools' tests: numbers to be done once each, shared by the workers through a folder.

A claim is a file lock, which the kernel gives back when its holder dies: the ledger's lease in small. Workers import
this module by its bare name, so its folder is on their PYTHONPATH (conftest).
"""

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from docmill.engine.errors import EngineDied, ModelError
from docmill.engine.pool.types import WorkerContext


def do_numbers(
    worker: WorkerContext,
    folder: Path,
    *,
    count: int,
    together: int = 1,
    last_needs: int = 1,
    sulky: bool = False,
) -> list[int]:
    """Do all numbers, with others; returns those done here when all are, or when told to (unless sulky).

    Nothing is done before `together` workers have come, and the last number not before `last_needs` have.
    """
    (folder / f"worker {worker.name}").touch()
    mine: list[int] = []
    while len(done_numbers(folder)) < count:
        time.sleep(0.01)
        for number in range(count):
            worker.poll()
            if worker.stopping and not sulky:
                return mine
            if len(worker_pids(folder)) < (last_needs if number == count - 1 else together):
                break
            with (folder / f"claim {number}").open("w") as claim:
                try:
                    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if (folder / f"done {number}").exists():
                    continue
                time.sleep(0.01)
                (folder / f"done {number}").touch(exist_ok=False)
                mine.append(number)
    return mine


def done_numbers(folder: Path) -> list[int]:
    return sorted(int(path.name.split()[1]) for path in folder.glob("done *"))


def worker_pids(folder: Path) -> list[int]:
    """Of the workers that began, the first one first."""
    paths = sorted(folder.glob("worker *"), key=lambda path: path.stat().st_mtime_ns)
    return [int(path.name.rsplit("-", 2)[1]) for path in paths]


def gone(pid: int, seconds: float = 10) -> bool:
    """Has the process ended, or does it within this time?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def kill_myself(worker: WorkerContext, folder: Path) -> None:
    (folder / f"worker {worker.name}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def fail_once_others_work(
    worker: WorkerContext, folder: Path, *, kind: str, alone: bool = False
) -> list[int]:
    """The first worker to come fails with an error of the kind once a number is done; the others do the numbers."""
    try:
        (folder / "the one that fails").touch(exist_ok=False)
    except FileExistsError:
        return do_numbers(worker, folder, count=60)
    while not (done_numbers(folder) or alone):
        time.sleep(0.01)
    if kind == "retryable":
        raise EngineDied("out of luck", num_in_flight=3)
    raise ModelError("some/model", "it is not there")


def tell_environment(worker: WorkerContext, name: str) -> tuple[str | None, float]:
    return os.environ.get(name), worker.num_gpus


def visible_gpus(worker: WorkerContext) -> tuple[float, str | None]:
    return worker.num_gpus, os.environ.get("CUDA_VISIBLE_DEVICES")


def start_a_child_and_wait(worker: WorkerContext, folder: Path) -> None:
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    (folder / "child").write_text(str(child.pid))
    (folder / f"worker {worker.name}").touch()
    while not worker.stopping:
        time.sleep(0.05)


def chatter(worker: WorkerContext) -> str:
    print("a worker says something")
    return worker.name
