"""`docmill ui`: up, reachable, and gone without a trace."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from docmill.pipelines.exit_codes import ExitCode

DOCMILL = str(Path(sys.executable).with_name("docmill"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_refused_by_name(cli: Any, taken_port: int) -> None:
    result = cli("ui", "--port", taken_port)
    assert result.exit_code == ExitCode.USAGE
    assert f"port {taken_port} is taken" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_answer_until_the_process_is_told_to_stop(tmp_path: Path, sent: signal.Signals) -> None:
    messages = tmp_path / "stderr.txt"
    with messages.open("w") as stderr:
        process = subprocess.Popen(
            [DOCMILL, "ui"], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=tmp_path
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Dagster answers at http://127.0.0.1:"), messages.read_text()
        url = line.split()[3]
        children = psutil.Process(process.pid).children(recursive=True)
        assert {job["name"] for job in _jobs(url)} >= {"demo", "distributions"}
        assert (tmp_path / "home" / "dagster" / "dagster.yaml").exists()
        process.send_signal(sent)
        process.communicate(timeout=90)
        assert process.returncode == 0
        assert "Traceback" not in messages.read_text()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=90)


def _jobs(url: str) -> list[dict[str, str]]:
    """The jobs of the code location; it may load for a while after the pages answer."""
    query = "{repositoriesOrError {... on RepositoryConnection {nodes {jobs {name}}}}}"
    request = urllib.request.Request(
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(60):
        with urllib.request.urlopen(request, timeout=30) as response:
            nodes = json.load(response)["data"]["repositoriesOrError"]["nodes"]
        if nodes:
            return list(nodes[0]["jobs"])
        time.sleep(1)
    raise AssertionError("no code location loaded")
