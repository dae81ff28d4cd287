"""A run that is told to stop: it keeps what is done, says how to go on, and the next one does only the rest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docmill.ops.progress import Progress
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.stop_signals import StopSignals

DAY = "2026-11-20"
SLOW_DOCMILL = str(Path(__file__).with_name("slow_docmill.py"))
SLOW_LEDGER = {"unit_seconds": 2.0, "segment_seconds": 1.0, "lease_seconds": 6.0}

WriteJob = Callable[..., Path]


@pytest.fixture
def slow_job(write_job: WriteJob) -> Path:
    """Some ten seconds of work for the slow engine, in more than ten units."""
    return write_job(
        source__generate__days=[DAY],
        source__generate__documents_per_day=900,
        engine__max_in_flight=32,
        ledger=SLOW_LEDGER,
    )


@contextmanager
def running(job: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`docmill run` with the slow engine, in a process of its own, once it has answered something."""
    command = [sys.executable, SLOW_DOCMILL, "run", str(job), "--partition", DAY, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("running"):
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def progress(stage: str) -> Progress:
    return Progress(stage, 0, None, 0, 0, 0.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_sets_stop_and_later_ones_are_ignored(number: signal.Signals) -> None:
    told: list[str] = []
    before = signal.getsignal(number)
    with StopSignals(
        lambda progress: told.append(progress.stage), on_stop=lambda: told.append("stop")
    ) as signals:
        signals.on_progress(progress("running"))
        assert not signals.stop.is_set()
        for _ in range(3):
            signal.raise_signal(number)
        assert signals.stop.wait(5)
    assert told == ["running", "stop"]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("stage", ["planning", "writing"])
def test_where_nothing_can_be_lost_a_signal_does_what_it_did_before(stage: str) -> None:
    with StopSignals(lambda _: None) as signals:
        signals.on_progress(progress(stage))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not signals.stop.is_set()


def test_in_another_thread_signals_stay_what_they_are() -> None:
    before = signal.getsignal(signal.SIGINT)

    def look() -> bool:
        with StopSignals(lambda _: None):
            return signal.getsignal(signal.SIGINT) is before

    with ThreadPoolExecutor(1) as other:
        assert other.submit(look).result()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on_and_the_next_does_only_the_rest(
    slow_job: Path, cli: Any, sent: signal.Signals
) -> None:
    with running(slow_job, "--json") as process:
        time.sleep(2)
        status = cli.json("status", slow_job, "--partition", DAY)  # while another process runs it
        started = time.monotonic()
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=60)
        assert time.monotonic() - started < 30
    assert status["state"] == "running"
    assert 0 < status["documents_done"] < status["documents"] == 900
    assert status["units"] == status["units_done"] + status["units_claimed"] + status["units_left"]
    assert [worker["name"].split("-")[-3] for worker in status["workers"]] == [str(process.pid)]
    assert process.returncode == ExitCode.INTERRUPTED
    assert stderr.count("stopping: ") == 1
    assert "Traceback" not in stderr
    error = json.loads(stdout)["error"]
    assert (error["kind"], error["resumable"], error["exit_code"]) == ("Stopped", True, ExitCode.INTERRUPTED)
    assert "Run the same job again: it does the rest" in error["message"]
    after = cli.json("status", slow_job, "--partition", DAY)
    assert after["state"] == "interrupted"
    assert after["units_left"] == error["num_units_left"] > 0
    assert "nobody works on it" in cli("status", slow_job, "--partition", DAY).stdout
    report = cli.json("run", slow_job, "--partition", DAY)  # with the quick engine: its answers are the same
    answered, computed = report["tokens"]["prompt"], report["computed_tokens"]["prompt"]
    assert report["tasks"]["topics"]["counts"]["ok"] == 900
    # Below: of equal documents, the next run finds the second answered by the first.
    assert 0.95 * answered <= computed <= 1.1 * answered
    assert report["earlier_worker_seconds"] > 1
    assert cli.json("status", slow_job, "--partition", DAY)["state"] == "finished"


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_run_at_once(slow_job: Path, write_job: WriteJob) -> None:
    path = write_job(  # the engine has ten seconds and more of requests, which a clean end waits for
        source__generate__days=[DAY],
        source__generate__documents_per_day=3000,
        engine__max_in_flight=5000,
        ledger=SLOW_LEDGER,
    )
    with running(path) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None, "the first one ends it cleanly, which takes a while"
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - started < 3
    assert process.returncode == ExitCode.INTERRUPTED
    assert "units of work are left" not in stderr


@pytest.mark.slow
def test_a_spent_budget_ends_with_6_and_is_resumable(write_job: WriteJob, cli: Any) -> None:
    settings: dict[str, Any] = {
        "source__generate__days": [DAY],
        "source__generate__documents_per_day": 900,
        "engine__max_in_flight": 32,
        "ledger": SLOW_LEDGER,
    }
    path = write_job(**settings, budget={"max_hours": 2 / 3600})
    with running(path, "--json") as process:
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.BUDGET_SPENT
    error = json.loads(stdout)["error"]
    assert error["message"].startswith("budget.max_hours: ")
    assert error["message"].endswith("Raise the limit first")
    assert (error["kind"], error["resumable"], error["retryable"]) == ("BudgetSpent", True, False)
    report = cli.json("run", write_job(**settings), "--partition", DAY)
    assert report["computed_tokens"]["prompt"] <= 1.1 * report["tokens"]["prompt"]
