"""The end-of-session check sees the processes that matter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers.leftovers import leftover_processes
from servers.process import ServerProcess


def test_an_orphan_of_a_killed_child_is_found() -> None:
    program = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"
    child = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    orphan = int(child.stdout)
    try:
        assert orphan in [process.pid for process in leftover_processes(grace_seconds=0)]
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from servers.process import ServerProcess\n"
        "print(ServerProcess('sleep', '60', log=Path(sys.argv[1])).pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    starter = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    server = int(starter.stdout)
    for _ in range(100):
        if not Path(f"/proc/{server}").exists() or ") Z " in Path(f"/proc/{server}/stat").read_text():
            return
        time.sleep(0.02)
    os.kill(server, signal.SIGKILL)
    raise AssertionError(
        f"server {server} still ran 2 seconds after kill -9 of the process that had started it"
    )


def test_a_server_that_ends_by_itself_is_reported_with_its_log(tmp_path: Path) -> None:
    process = ServerProcess("sh", "-c", "echo the disk is full; exit 3", log=tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"status 3[^$]*the disk is full"):
        process.wait_for_http(1, timeout_seconds=5)
