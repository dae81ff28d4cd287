"""`docmill ui`: up, reachable, at work by itself, and gone without a trace."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from docmill_ui import DocmillUi, wait_until
from readme import ROOT, Shell, told
from servers.hook import Hook

from docmill.pipelines import ui as ui_module
from docmill.pipelines.exit_codes import ExitCode, WrongUsage


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


def test_two_that_start_together_choose_different_ports() -> None:
    """Neither has opened its port yet when the other looks."""
    with ExitStack() as first, ExitStack() as second:
        port = ui_module._choose_port(None, "127.0.0.1", first)
        assert ui_module._choose_port(None, "127.0.0.1", second) != port
        with pytest.raises(WrongUsage, match=f"port {port} is taken"):
            ui_module._choose_port(port, "127.0.0.1", second)
        first.close()
        assert ui_module._choose_port(port, "127.0.0.1", second) == port


@pytest.mark.slow
@pytest.mark.parametrize(("command", "sent"), [("make ui", signal.SIGINT), ("docmill ui", signal.SIGTERM)])
def test_the_pages_answer_until_the_process_is_told_to_stop(
    start_ui: Callable[..., DocmillUi], tmp_path: Path, command: str, sent: signal.Signals
) -> None:
    ui = start_ui(told("make ui"), Shell(ROOT, tmp_path / "programs")) if command == "make ui" else start_ui()
    children = psutil.Process(ui.process.pid).children(recursive=True)
    assert {job["name"] for job in ui.repository()["jobs"]} >= {"demo", "distributions"}
    assert (tmp_path / "home" / "dagster" / "dagster.yaml").exists()
    ui.send(sent)
    # Told to stop with its own child, make ends by the signal or calls that an error, as it comes.
    assert ui.process.returncode in ([0] if command == "docmill ui" else [-sent, 2])
    assert "Traceback" not in ui.messages.read_text()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_daemon_starts_runs_by_the_clock_and_by_the_files(
    start_ui: Callable[..., DocmillUi],
    write_job: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    hook: Hook,
) -> None:
    """Jobs that are on as soon as they are there: nobody switches anything on. And the hook of one that fails."""
    path = write_job(schedule={"cron": "* * * * *"})
    write_job(
        "arriving",
        name="arriving",
        output__uri="others",
        arrival={"settled_minutes": 0, "interval_seconds": 2},
        source__generate__days=["2026-11-20"],
    )
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    write_job(
        "failing",
        name="failing",
        source={"uri": "nothing", "start_date": "2026-11-01"},
        on_failure={"url": "${TICKETS_HOOK}"},
    )
    ui = start_ui()
    wait_until(lambda: "failing__failures" in ui.sensors_that_have_looked())
    ui.launch("failing", "2026-11-20")
    started = ui.runs_started_by("dagster/schedule_name", "dagster/sensor_name", may_fail=["failing"])
    assert started == {
        ("tickets", "tickets__schedule", "2026-11-20"),
        ("arriving", "arriving__arrivals", "2026-11-20"),
    }
    assert (tmp_path / "jobs/others/topics/dt=2026-11-20").is_dir()
    wait_until(lambda: bool(hook.messages))
    [message] = hook.messages
    assert (message["job"], message["partition"]) == ("failing", "2026-11-20")
    assert "no *.parquet files below" in message["error"]
