"""`docmill status`, `docmill replay` and the report: what a user sees of a partition that is not, or not wholly, done.

While another process runs it, see test_stop_signals.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from docmill.data.layout import Layout
from docmill.data.ledger import Beat, Ledger, this_host
from docmill.data.plan import read_plan
from docmill.engine.config import KERNELS
from docmill.engine.errors import EngineDied
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.kernel_choice import NO_GPU
from docmill.engine.types import Completion, Request, RequestError
from docmill.ops import replay as replays
from docmill.ops.partition_job import run_partition
from docmill.ops.report import IncidentReport, KernelReport, Report, Tokens
from docmill.ops.status import PartitionStatus
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job
from docmill.pipelines.report_text import print_report
from docmill.pipelines.status_command import status_lines

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"
DOCUMENTS = 12

WriteJob = Callable[..., Path]
Cli = Any


def fails_labels(request: Request) -> RequestError | None:
    """Classifications fail, translations do not."""
    return RequestError("engine_error", "made by the test") if request.labels else None


class DiesEarly(FakeEngine):
    """Answers a few requests, then it is gone."""

    def completions(self, timeout_seconds: float) -> list[Completion]:
        if self._num_taken >= 10:
            raise EngineDied("killed by the test", self.num_in_flight)
        return super().completions(timeout_seconds)[:10]


def run_with(path: Path, engine: FakeEngine) -> Report:
    job = load_job(str(path))
    return run_partition(job, job.partition(DAY), engine=engine)


def ledger_of(path: Path) -> Ledger:
    job = load_job(str(path))
    layout = Layout(job.output.uri, job.partition(DAY))
    plan, _ = read_plan(layout.plan)
    assert plan is not None
    return Ledger(layout, plan)


@pytest.fixture
def made_source(write_job: WriteJob, cli: Cli) -> Path:
    """A job whose source is there; the day itself has not been run."""
    path = write_job()
    assert cli("run", path, "--partition", OTHER_DAY).exit_code == 0
    return path


@pytest.fixture
def interrupted_job(made_source: Path) -> Path:
    """A job whose engine died in the middle of the day."""
    with pytest.raises(EngineDied):
        run_with(made_source, DiesEarly())
    return made_source


@pytest.fixture
def job_with_dead_letters(made_source: Path) -> Path:
    """A finished day in which no document could be classified."""
    report = run_with(made_source, FakeEngine(fail=fails_labels))
    assert report.dead_letters == DOCUMENTS
    return made_source


def test_a_day_that_never_ran_says_so(made_source: Path, cli: Cli) -> None:
    status = cli.json("status", made_source, "--partition", DAY)
    assert (status["state"], status["units"], status["workers"]) == ("never run", 0, [])
    assert status["tasks"] == {"translations": None, "topics": None}
    assert cli("status", made_source, "--partition", DAY).stdout == f"tickets, dt={DAY}: never run\n"


def test_a_job_whose_source_is_made_by_its_first_run_has_never_run(write_job: WriteJob, cli: Cli) -> None:
    assert cli.json("status", write_job(), "--partition", DAY)["state"] == "never run"


def test_a_day_that_is_not_there_is_a_mistake(made_source: Path, cli: Cli) -> None:
    result = cli("status", made_source, "--partition", "2020-01-01")
    assert result.exit_code == ExitCode.USAGE
    assert f"The source has {OTHER_DAY}, {DAY}" in result.stderr


def test_a_finished_day_is_told_from_its_report(finished_job: Path, cli: Cli) -> None:
    status = cli.json("status", finished_job, "--partition", DAY)
    assert (status["state"], status["documents"], status["documents_done"]) == (
        "finished",
        DOCUMENTS,
        DOCUMENTS,
    )
    assert status["units"] == status["units_done"] > 0
    assert status["documents_per_second"] > 0
    shown = cli("status", finished_job, "--partition", DAY).stdout
    assert f"documents  {DOCUMENTS} of {DOCUMENTS} (100%)" in shown
    assert "not yet" not in shown


def test_a_task_that_was_left_out_is_named(made_source: Path, cli: Cli) -> None:
    cli("run", made_source, "--partition", DAY, "--tasks", "topics")
    assert "not yet    translations" in cli("status", made_source, "--partition", DAY).stdout


def test_watching_ends_when_it_is_finished(finished_job: Path, cli: Cli) -> None:
    result = cli("status", finished_job, "--partition", DAY, "--watch")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"tickets, dt={DAY}: finished; documents {DOCUMENTS} of {DOCUMENTS}")
    assert cli.json("status", finished_job, "--partition", DAY, "--watch")["state"] == "finished"


def test_a_run_whose_engine_died_is_interrupted_and_the_next_finishes_it(
    interrupted_job: Path, cli: Cli
) -> None:
    status = cli.json("status", interrupted_job, "--partition", DAY)
    assert status["state"] == "interrupted"
    assert status["units_done"] < status["units"]
    assert (status["workers"], status["eta_seconds"]) == ([], None)
    assert "the same `docmill run` does the rest" in cli("status", interrupted_job, "--partition", DAY).stdout
    assert cli("run", interrupted_job, "--partition", DAY).exit_code == 0
    assert cli.json("status", interrupted_job, "--partition", DAY)["state"] == "finished"


def test_a_worker_that_beats_makes_it_running_with_its_rate_and_incidents(
    interrupted_job: Path, cli: Cli
) -> None:
    """Another machine's worker: its process cannot be looked up here, its beat is all there is."""
    ledger = ledger_of(interrupted_job)
    unit = next(unit for unit in ledger.plan.units if unit.id not in ledger.view().done)
    incident = {
        "kind": "died",
        "at": "2026-11-22T10:00:00+00:00",
        "num_in_flight": 7,
        "message": "killed",
        "action": "restarted, 7 requests sent again",
        "limits": {},
    }
    figures = {"seconds": {"model_load": 2.0}, "incidents": [incident]}
    beat = Beat(
        "gpu-7-4711-0-abc123", "another machine", 4711, 0.0, {unit.id: unit.first_row + 2}, 5, 300, 100, 12.0,
        figures=figures,
    )  # fmt: skip
    ledger.beat(beat)
    ledger.claim(unit.id, ledger.last_claim(unit.id) + 1, beat.worker)
    status = cli.json("status", interrupted_job, "--partition", DAY)
    assert (status["state"], status["units_claimed"]) == ("running", 1)
    [worker] = status["workers"]
    assert (worker["name"], worker["host"], worker["rows"]) == ("gpu-7-4711-0-abc123", "gpu-7", 5)
    assert status["documents_per_second"] == pytest.approx(0.5)
    assert status["tokens_per_second"] == pytest.approx(40)
    left = status["documents"] - status["documents_done"]
    assert status["eta_seconds"] == pytest.approx(left / 0.5)
    shown = cli("status", interrupted_job, "--partition", DAY).stdout
    assert "worker     gpu-7-4711-0-abc123 on gpu-7: 5 documents, 400 tokens in 12 s" in shown
    assert "incident   engine died at 10:00:00 UTC: restarted, 7 requests sent again; killed" in shown


def test_a_worker_whose_process_is_gone_is_not_alive(interrupted_job: Path, cli: Cli) -> None:
    ledger = ledger_of(interrupted_job)
    ledger.beat(Beat("here-1-0-abc123", this_host(), pid=2**22 + 1, pid_started=0.0))
    assert cli.json("status", interrupted_job, "--partition", DAY)["state"] == "interrupted"


def test_a_plan_without_a_worker_is_not_called_running(made_source: Path, cli: Cli) -> None:
    job = load_job(str(made_source))

    def stop_before_the_engine(progress: Any) -> None:
        if progress.stage == "loading model":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_partition(job, job.partition(DAY), on_progress=stop_before_the_engine)
    status = cli.json("status", made_source, "--partition", DAY)
    assert (status["state"], status["documents"], status["documents_done"]) == ("planned", DOCUMENTS, 0)
    assert "no worker has begun" in cli("status", made_source, "--partition", DAY).stdout


def test_dead_letters_are_counted_by_reason(job_with_dead_letters: Path, cli: Cli) -> None:
    status = cli.json("status", job_with_dead_letters, "--partition", DAY)
    assert status["dead_letters"] == {"engine_error": DOCUMENTS}
    assert status["failed_answers"] == DOCUMENTS
    shown = cli("status", job_with_dead_letters, "--partition", DAY).stdout
    assert f"dead       {DOCUMENTS} requests failed for good: engine_error {DOCUMENTS}" in shown


def test_a_replay_repairs_the_output_and_says_so(job_with_dead_letters: Path, cli: Cli) -> None:
    topics = f"{job_with_dead_letters.parent}/answers/topics/dt={DAY}/*.parquet"
    assert set(pl.read_parquet(topics)["status"]) == {"failed"}
    result = cli("replay", job_with_dead_letters, "--partition", DAY)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"tickets, dt={DAY}: {DOCUMENTS} asked again, {DOCUMENTS} repaired, none left\n"
    assert "loading model" in result.stderr
    assert set(pl.read_parquet(topics)["status"]) == {"ok"}
    assert cli.json("replay", job_with_dead_letters, "--partition", DAY) == {
        "num_asked": 0,
        "num_repaired": 0,
        "num_left": 0,
    }
    assert "nothing to replay" in cli("replay", job_with_dead_letters, "--partition", DAY).stdout


def test_a_replay_that_fails_again_ends_with_3(
    job_with_dead_letters: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "start_engine", lambda *_: FakeEngine(fail=fails_labels))
    done = cli.json("replay", job_with_dead_letters, "--partition", DAY, exit_code=ExitCode.INCOMPLETE)
    assert done == {"num_asked": DOCUMENTS, "num_repaired": 0, "num_left": DOCUMENTS}
    assert f"{DOCUMENTS} left" in cli("replay", job_with_dead_letters, "--partition", DAY).stdout


@pytest.mark.parametrize("options", [["--partition", DAY], ["--partition", DAY, "--reason", "typo"]])
def test_a_replay_of_what_never_ran_ends_with_2(made_source: Path, cli: Cli, options: list[str]) -> None:
    error = cli.json("replay", made_source, *options, exit_code=ExitCode.USAGE)["error"]
    assert error["kind"] == "NothingToReplay"
    assert "never finished" in error["message"]


def test_a_reason_that_nothing_failed_for_names_those_there_are(
    job_with_dead_letters: Path, cli: Cli
) -> None:
    result = cli("replay", job_with_dead_letters, "--partition", DAY, "--reason", "engine_eror")
    assert result.exit_code == ExitCode.USAGE
    assert "there are: engine_error" in result.stderr


def report_text(path: Path, **changes: Any) -> str:
    job = load_job(str(path))
    report = run_with(path, FakeEngine()).model_copy(update=changes)
    console = Console(file=io.StringIO(), width=200)
    print_report(console, job, job.partition(DAY), report)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_report_without_trouble_has_no_line_about_it(made_source: Path) -> None:
    shown = report_text(made_source)
    for word in ("dead ", "incident", "again ", "earlier", "workers"):
        assert word not in shown


def test_a_report_tells_what_went_wrong_and_what_it_cost(made_source: Path) -> None:
    incidents = [
        IncidentReport(
            kind="out_of_memory",
            at=datetime(2026, 11, 22, 10, minute, tzinfo=UTC),
            num_in_flight=8,
            message="no memory\x1b[31m",
            action="batch limits lowered",
            limits={"max_num_seqs": 32},
        )
        for minute in range(7)
    ]
    shown = report_text(
        made_source,
        dead_letters=3,
        computed_tokens=Tokens(prompt=10_000_000),
        earlier_worker_seconds=200.0,
        incidents=incidents,
        workers=2,
    )
    assert f"dead       3 requests failed for good; `docmill replay tickets --partition {DAY}` asks" in shown
    assert "again      9,9" in shown
    assert "earlier    3 min 20 s of workers" in shown
    assert "of 2 workers (" in shown
    assert "incident   2 more, the latest are" in shown
    assert shown.count("engine out of memory at 10:0") == 5
    assert "batch limits lowered (max_num_seqs 32); no memory" in shown
    assert "\x1b" not in shown


def test_a_report_tells_of_each_kernel_that_ran_and_why_the_others_did_not(made_source: Path) -> None:
    shown = report_text(
        made_source,
        kernels={
            "rms_norm_quant": KernelReport(num_places=8, num_calls=12_000, implementation="_C.1.so"),
            "silu_mul_quant": KernelReport(reason="not named in `engine.kernels`"),
        },
    )
    assert "kernels    rms_norm_quant in 8 layers, 12,000 calls (_C.1.so)\n" in shown
    assert "kernels    silu_mul_quant: off, not named in `engine.kernels`\n" in shown
    without_gpu = {op: KernelReport(reason=NO_GPU) for op in KERNELS}
    assert "kernels" not in report_text(made_source, kernels=without_gpu)


def test_a_line_of_status_is_left_out_where_there_is_nothing_to_say() -> None:
    status = PartitionStatus(
        job="x", partition="all", state="running", tasks={"t": None}, units=4, documents=10
    )
    assert status_lines(status) == [
        "x, all: running",
        "units      0 done, 0 claimed, 0 left of 4",
        "documents  0 of 10 (0%)",
    ]
