"""`docmill` as its users call it: output, exit codes, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from docmill.data.errors import (
    ShardCorrupt,
    StorageDenied,
    StorageError,
    StorageNotFound,
    StorageSettingError,
    StorageUnreachable,
)
from docmill.engine.errors import EngineConfigError, EngineDied, ModelError
from docmill.engine.pool.errors import PoolConfigError, PoolLost, PoolUnreachable, WorkerError
from docmill.ops.errors import BudgetSpent, JobError, NoShards, NothingToReplay, Stopped
from docmill.pipelines.cli import app
from docmill.pipelines.exit_codes import ExitCode, error_object, exit_code_of

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"
DOCUMENTS = 12
DOCMILL = str(Path(sys.executable).with_name("docmill"))

WriteJob = Callable[..., Path]
Cli = Any


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError("x", ["y"]), ExitCode.USAGE),
        (NoShards("x", []), ExitCode.USAGE),
        (ModelError("x", "y"), ExitCode.USAGE),
        (EngineConfigError("x"), ExitCode.USAGE),
        (StorageNotFound("s3://x", "y"), ExitCode.USAGE),
        (StorageUnreachable("s3://x", "y"), ExitCode.STORAGE),
        (StorageDenied("s3://x", "y"), ExitCode.STORAGE),
        (StorageError("s3://x", "y"), ExitCode.STORAGE),
        (ShardCorrupt("s3://x", "y"), ExitCode.STORAGE),
        (StorageSettingError("x"), ExitCode.USAGE),
        (NothingToReplay("x"), ExitCode.USAGE),
        (EngineDied("x", 3), ExitCode.ENGINE_DIED),
        (PoolLost([]), ExitCode.ENGINE_DIED),
        (PoolUnreachable("auto", "x"), ExitCode.ENGINE_DIED),
        (PoolConfigError("x"), ExitCode.USAGE),
        (WorkerError("w", "x", retryable=True), ExitCode.ENGINE_DIED),
        (WorkerError("w", "x"), ExitCode.FAILED),
        (BudgetSpent("x", 3), ExitCode.BUDGET_SPENT),
        (Stopped("x", 3), ExitCode.INTERRUPTED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (ZeroDivisionError("x"), ExitCode.FAILED),
    ],
)
def test_every_error_has_its_exit_code(error: BaseException, code: ExitCode) -> None:
    assert exit_code_of(error) is code
    assert error_object(error)["exit_code"] == code
    assert error_object(error)["message"]


@pytest.mark.parametrize(
    ("error", "resumable"),
    [
        (Stopped("x", 3), True),
        (BudgetSpent("x", 3), True),
        (EngineDied("x", 3), True),
        (PoolLost([]), True),
        (StorageUnreachable("s3://x", "y"), True),
        (KeyboardInterrupt(), True),
        (StorageDenied("s3://x", "y"), False),
        (JobError("x", ["y"]), False),
    ],
)
def test_what_ended_a_run_tells_whether_and_how_to_go_on(error: BaseException, resumable: bool) -> None:
    told = error_object(error, of_run=True)
    assert told["resumable"] is resumable
    assert told["message"].count("does the rest") == resumable
    assert "resumable" not in error_object(error)


def test_help_documents_the_exit_codes(cli: Cli) -> None:
    for arguments in ((), ("run",)):
        text = " ".join(cli(*arguments, "--help").stdout.split())
        assert "4 storage unreachable (worth a retry) or denied" in text.replace("│ ", "")
        assert all(f" {code.value} " in text for code in ExitCode)


def test_version_is_printed(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("docmill 0.")


@pytest.mark.parametrize("arguments", [["--help"], ["jobs"]])
def test_starting_is_quick(arguments: list[str]) -> None:
    """In seconds of a processor: what else runs on the machine, this suite for one, is not ours to measure."""
    seconds = []
    for _ in range(3):
        process = subprocess.Popen(
            [DOCMILL, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    assert min(seconds) < 1.5


def test_run_shows_the_report_and_where_the_files_are(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    result = cli("run", path, "--partition", DAY)
    assert result.exit_code == 0, result.output
    assert f"tickets, dt={DAY}" in result.stdout
    assert f"answers    {path.parent}/answers/translations/dt={DAY}" in result.stdout
    assert "cost " in result.stdout
    assert "loading model" in result.stderr
    assert f"writing: {DOCUMENTS} of {DOCUMENTS} documents" in result.stderr


def test_run_with_json_prints_the_report_alone(write_job: WriteJob, cli: Cli) -> None:
    report = cli.json("run", write_job(), "--partition", f"dt={DAY}", "--tasks", "topics")
    assert report["documents"] == DOCUMENTS
    assert list(report["tasks"]) == ["topics"]


def test_run_without_a_price_says_so(write_job: WriteJob, cli: Cli) -> None:
    result = cli("run", write_job(prices=None), "--partition", DAY)
    assert "cost       unknown: prices.usd_per_hour says nothing about 'cpu'" in result.stdout


def test_run_again_replaces(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    for _ in range(2):
        assert cli("run", path, "--partition", DAY).exit_code == 0
    assert pl.scan_parquet(f"{path.parent}/answers/topics/**/*.parquet").collect().height == DOCUMENTS


def test_run_of_an_unpartitioned_source_takes_no_partition(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source={"uri": "own", "partition_key": None})
    (path.parent / "own").mkdir()
    pl.DataFrame({"doc_id": [1, 2], "text": ["one", None]}).write_parquet(path.parent / "own" / "a.parquet")
    report = cli.json("run", path)
    assert report["partition"] == "all"
    assert report["tasks"]["topics"]["counts"] == {"rows": 2, "ok": 1, "failed": 1, "skipped": 0}
    assert cli("run", path, "--partition", DAY).exit_code == ExitCode.USAGE


def test_rows_without_an_answer_are_listed_by_reason_and_fail_nothing(write_job: WriteJob, cli: Cli) -> None:
    result = cli("run", write_job(source__generate__hostile=True), "--partition", OTHER_DAY)
    assert result.exit_code == 0, result.output
    assert "no answer  topics: " in result.stdout
    assert "text_missing" in result.stdout


def test_a_shard_that_cannot_be_used_ends_with_3(finished_job: Path, cli: Cli) -> None:
    (finished_job.parent / "documents" / f"dt={DAY}" / "part-0000.parquet").write_bytes(b"no parquet")
    result = cli("run", finished_job, "--partition", DAY)
    assert result.exit_code == ExitCode.INCOMPLETE
    assert "bad shard  " in result.stdout
    report = cli.json("run", finished_job, "--partition", DAY, exit_code=ExitCode.INCOMPLETE)
    assert [shard["shard"] for shard in report["failed_shards"]] == ["part-0000.parquet"]


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, [], "--partition"),  # partitioned, and no day said
        ({}, ["--partition", "a/b"], "is no partition"),
        ({}, ["--partition", "2020-01-01"], "The source has 2026-11-19, 2026-11-20"),
        ({}, ["--partition", DAY, "--tasks", "topic"], "did you mean 'topics'?"),
        ({"model": {"source": "./nothing"}}, ["--partition", DAY], "no such folder"),
        ({"tasks__topics__labels": ["a"]}, ["--partition", DAY], "tasks.topics.labels: "),
        ({"tasks__translations__max_output_tokens": 5000}, ["--partition", DAY], "tasks.translations: "),
    ],
)
def test_what_cannot_run_as_written_ends_with_2_and_says_why(
    write_job: WriteJob, cli: Cli, changes: dict[str, Any], options: list[str], expected: str
) -> None:
    path = write_job(**changes)
    result = cli("run", path, *options)
    assert result.exit_code == ExitCode.USAGE
    assert expected in result.stderr
    assert "Traceback" not in result.output
    error = cli.json("run", path, *options, exit_code=ExitCode.USAGE)["error"]
    assert expected in error["message"]
    assert error["retryable"] is False


def test_a_job_that_is_not_there_ends_with_2(cli: Cli) -> None:
    assert "did you mean 'demo'?" in cli("run", "dmeo").stderr
    assert cli("run", "no/such.yaml").exit_code == ExitCode.USAGE


def test_a_trace_is_shown_on_request(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in cli("run", "nothing", "--debug").stderr
    monkeypatch.setenv("DOCMILL_DEBUG", "1")
    assert "Traceback" in cli("run", "nothing").stderr


def test_a_store_that_does_not_answer_ends_with_4(
    write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nothing listens on the discard port
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "a-very-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    path = write_job(source={"uri": "s3://bucket/x", "start_date": DAY})
    error = cli.json("run", path, "--partition", DAY, exit_code=ExitCode.STORAGE)["error"]
    assert error["kind"] == "StorageUnreachable"
    assert error["retryable"] is True
    assert "a-very-secret-key" not in json.dumps(error)


def test_a_wrong_setting_of_storage_ends_with_2(
    finished_job: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_STORAGE_RETRY_SECONDS", "soon")
    error = cli.json("run", finished_job, "--partition", DAY, exit_code=ExitCode.USAGE)["error"]
    assert "DOCMILL_STORAGE_RETRY_SECONDS is 'soon'" in error["message"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_leaves_no_half_files(
    write_job: WriteJob, sent: signal.Signals
) -> None:
    path = write_job(source__generate__documents_per_day=10_000, source__generate__days=[DAY])
    process = subprocess.Popen(
        [DOCMILL, "run", str(path), "--partition", DAY],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(path.parent)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("running"):
            break
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "it does the rest" in stderr
    assert "Traceback" not in stderr
    assert not list(path.parent.glob("docmill-*"))
    assert not list((path.parent / "answers").rglob("manifest.json"))


def test_jobs_lists_what_can_be_called_by_name(
    write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job("mine").parent))
    listed = {job["name"]: job for job in cli.json("jobs")}
    assert set(listed) == {"demo", "distributions", "mine"}
    assert listed["mine"]["job"] == "tickets"
    assert "mine" in cli("jobs").stdout


def test_jobs_names_broken_files_and_ends_with_2(
    write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job("broken", text="name: x").parent))
    result = cli("jobs")
    assert result.exit_code == ExitCode.USAGE
    assert "source: is missing" in result.stdout
    assert "demo" in result.stdout
    listed = {job["name"]: job for job in cli.json("jobs", exit_code=ExitCode.USAGE)}
    assert listed["broken"]["problems"] == ["source: is missing", "output: is missing", "tasks: is missing"]


def test_the_demo_runs_the_last_day_and_says_what_is_next(
    write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "DOCMILL_JOBS", str(write_job("demo").parent)
    )  # in place of the bundled one: the fake engine
    result = cli("demo")
    assert result.exit_code == 0, result.output
    assert f"tickets, dt={DAY}" in result.stdout
    assert "document" in result.stdout
    assert f"docmill show demo --partition {DAY}" in result.stdout
    assert "docmill ui" in result.stdout
    report = cli.json("demo")
    assert (report["job"], report["partition"]) == ("tickets", f"dt={DAY}")


def test_every_command_but_ui_speaks_json(cli: Cli) -> None:
    commands = {
        command.name or str(command.callback.__name__).replace("_", "-"): command.callback
        for command in app.registered_commands
        if command.callback
    }
    without = [name for name, command in commands.items() if "as_json" not in signature(command).parameters]
    assert without == ["ui"]
    assert "until stopped" in cli("ui", "--help").stdout
