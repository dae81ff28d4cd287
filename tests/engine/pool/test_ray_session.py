"""A Ray that a pool starts itself: quiet, heeding its driver's signals, and gone with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from shared_numbers import gone, worker_pids

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# As `docmill run` does: SIGINT and SIGTERM set `stop`. Its last line tells how the run ended.
DRIVER = """
import json, os, signal, sys, threading
from functools import partial
from pathlib import Path
import shared_numbers
from docmill.engine.pool.config import PoolConfig
from docmill.engine.pool.open_pool import open_pool

stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
work = getattr(shared_numbers, sys.argv[1])
arguments = json.loads(sys.argv[2])
pool = open_pool(PoolConfig(kind="ray", workers=2), tensor_parallel_size=1, device="cpu")
result = pool.run(partial(work, folder=Path(sys.argv[3]), **arguments), on_poll=lambda: None, stop=stop)
auth = [name for name in os.environ if name.startswith("RAY_AUTH")]
print(json.dumps({"ended": len(result.results), "lost": len(result.lost), "auth": auth}))
"""


@contextmanager
def driver(work: str, folder: Path, **arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Runs in a session of its own, as in a terminal of its own, with a home of its own."""
    home = folder / "home"
    home.mkdir()
    command = [sys.executable, "-c", DRIVER, work, json.dumps(arguments), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "HOME": str(home)}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        assert not list(home.iterdir()), "something was written to the user's home"


def wait_for_workers(folder: Path, process: subprocess.Popen[str]) -> None:
    while len(worker_pids(folder)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_ctrl_c_ends_the_workers_cleanly_and_a_dead_worker_is_not_news_for_the_terminal(
    tmp_path: Path,
) -> None:
    with driver("do_numbers", tmp_path, count=1_000_000, together=2) as process:
        wait_for_workers(tmp_path, process)
        os.kill(worker_pids(tmp_path)[0], signal.SIGKILL)
        while len(worker_pids(tmp_path)) < 3:  # its successor
            time.sleep(0.05)
        processes = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process of the group
        output, errors = process.communicate(timeout=60)
    assert json.loads(output) == {"ended": 2, "lost": 1, "auth": []}
    assert process.returncode == 0
    (line,) = errors.splitlines()
    assert line.startswith("worker_lost name=")
    assert len(processes) >= 4
    assert all(gone(item.pid) for item in processes)


def test_workers_and_what_they_started_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    with driver("start_a_child_and_wait", tmp_path) as process:
        wait_for_workers(tmp_path, process)
        processes = psutil.Process(process.pid).children(recursive=True)
        # Two small servants of the raylet try for 60 seconds (fixed in Ray) to tell the dead cluster that it is dead.
        agents = [item for item in processes if "Agent" in item.cmdline()[0]]
        sleepers = [item for item in processes if item.name() == "sleep"]
        process.kill()
        process.communicate(timeout=10)
        left = [item for item in processes if item not in agents and not gone(item.pid)]
        for agent in agents:
            agent.kill()
    assert left == []
    assert len(sleepers) == 2
    assert len(agents) == 2
