"""What Dagster costs a backfill of many small days, two side by side, and what a killed daemon costs it.

    .venv/bin/python tests/benchmarks/backfill.py [--days 30] [--documents 60] [--plain 6] [--engine vllm]

`docmill ui` with a DAGSTER_HOME of its own runs `docmill backfill --max-parallel 2 --wait`. In the middle, while
answers are being made, its daemon is killed (SIGKILL), which ends the pages and the runs too; `docmill ui` is started
again, and the backfill goes on. The first `--plain` days also run one after the other with `docmill run`, into another
output, before Dagster is there.

Of each run that was not disturbed, `dagster_seconds` is the time from its launch to its end less what docmill's own
report says (imports, the processes of run and step, events, and what Dagster waits for); `process_seconds` is the same
of `docmill run`. `empty_seconds` is, of the two places of the whole backfill, the time in which they held no run: the
daemon's ticks, and the restart. The ratio is a day's share of the backfill's wall time to the median of `docmill run`.

Every document must have one answer of each task, in the files and in `docmill report`; what engines computed beyond one
answer each (`redone_tokens`) must be on the days that the kill met. Near-equal days would spare each other work in an
order that differs, so `reuse` is off. An engine has half of the cores, in Dagster and alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import yaml
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import BACKFILL_ID_TAG
from measuring import DEMO_TASKS, parser, spread, write_result

from docmill.data.demo.days import write_demo_days
from docmill.ops.history import read_report
from docmill.ops.job import Job
from docmill.ops.report import Report
from docmill.ops.status import StatusReader
from docmill.pipelines.backfill import BackfillState, look_at, open_instance
from docmill.pipelines.job_files import load_job

DOCMILL = str(Path(sys.executable).with_name("docmill"))
PARALLEL = 2
POLL_SECONDS = 0.5
ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {"kind": "vllm"},
    "fake": {"kind": "fake", "max_num_seqs": 16, "extra": {"step_seconds": 0.25}},  # some seconds a day
}
VARYING = ["dt", "produced_at", "cached_tokens", "score", "label_scores"]  # scores: sums in another order


class Ui:
    """A `docmill ui`; its messages go into a file."""

    def __init__(self, log: Path):
        with log.open("a") as messages:
            self.process = subprocess.Popen(
                [DOCMILL, "ui"], stdout=subprocess.PIPE, stderr=messages, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Dagster answers at "), log.read_text()[-2000:]

    def kill_daemon(self) -> None:
        """SIGKILL; the pages end with it."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        [daemon] = [child for child in children if "dagster._daemon" in child.cmdline()]
        daemon.kill()
        self.process.communicate(timeout=120)

    def stop(self) -> None:
        """As Ctrl-C does; may be called again."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.communicate(timeout=120)


@contextmanager
def running_uis(log: Path) -> Iterator[Callable[[], Ui]]:
    """Starts one at each call, and leaves none."""
    started: list[Ui] = []

    def start() -> Ui:
        started.append(Ui(log))
        return started[-1]

    try:
        yield start
    finally:
        for ui in started:
            ui.stop()


def write_job(folder: Path, name: str, first: date, engine: str) -> Path:
    """A job file over the folder's documents, with an output of its own."""
    path = folder / name / f"{name}.yaml"
    path.parent.mkdir()
    path.write_text(
        yaml.safe_dump(
            {
                "name": name,
                "source": {"uri": str(folder / "documents"), "start_date": first},
                "output": {"uri": "answers"},
                "chunking": {"max_tokens": 128},
                "engine": ENGINES[engine],
                "reuse": {"runs": 0},
                "tasks": DEMO_TASKS,
            }
        )
    )
    return path


def run_plain(path: Path, days: Sequence[str]) -> list[dict[str, float]]:
    """Each day in a process of its own, one after the other."""
    runs = []
    for day in days:
        started = time.perf_counter()
        command = [DOCMILL, "run", path, "--partition", day, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        assert done.returncode == 0, done.stderr[-2000:]
        report = Report.model_validate_json(done.stdout)
        runs.append({"seconds": seconds, **figures_of(report, seconds, "process_seconds")})
        print(f"docmill run {day}: {seconds:.1f} s", flush=True)
    return runs


def figures_of(report: Report, seconds: float, name: str) -> dict[str, Any]:
    """What one run took, and as `name` the part of it that docmill's report does not know."""
    computed, answers, spared = report.computed_tokens, report.tokens, report.spared_tokens
    once = answers.prompt + answers.output - spared.prompt - spared.output
    return {
        "docmill_seconds": round(report.seconds.wall, 2),
        "model_load_seconds": round(report.seconds.model_load, 2),
        "engine_seconds": round(report.seconds.engine, 2),
        name: round(seconds - report.seconds.wall, 2),
        "once_tokens": once,
        "redone_tokens": computed.prompt + computed.output - once,
    }


def run_backfill(path: Path, days: list[str], start_ui: Callable[[], Ui]) -> dict[str, Any]:
    """All of it, with the kill in the middle."""
    ui, job = start_ui(), load_job(str(path))
    with open_instance() as instance:
        started = time.time()
        command = [DOCMILL, "backfill", path, "--max-parallel", str(PARALLEL), "--wait", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            try:
                [backfill] = wait_until(lambda: list(instance.get_backfills()), 120)
                backfill_id = str(backfill.backfill_id)

                def state() -> BackfillState:
                    return look_at(instance, backfill_id, len(days))

                half = len(days) // 2
                wait_until(
                    lambda: state().succeeded >= half and is_answering(instance, job), 180 + 120 * half
                )
                at_kill, killed = state(), time.time()
                ui.kill_daemon()
                start_ui()
                down = time.time() - killed
                print(f"killed after {at_kill.succeeded} days, up again after {down:.1f} s", flush=True)
                wait_until(lambda: state().is_over, 300 + 120 * len(days))
                said = json.loads(waiting.communicate(timeout=600)[0])
            finally:
                waiting.kill()
        assert state().is_complete, state()
        runs = runs_by_day(instance, backfill_id)
        ended = max(run["end"] for of_day in runs.values() for run in of_day)
    wall = ended - started
    busy = sum(run["end"] - run["launch"] for of_day in runs.values() for run in of_day)
    return {
        "runs": runs,
        "wall_seconds": round(wall, 1),
        "empty_seconds": round(PARALLEL * wall - busy, 1),
        "killed": {
            "days_done": at_kill.succeeded,
            "days_running": at_kill.running,
            "seconds_until_up_again": round(down, 1),
            "waited_to_the_end": said["backfill"]["state"]["is_over"],
        },
    }


def is_answering(instance: DagsterInstance, job: Job) -> bool:
    """Whether the engine of a day is at work."""
    runs = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
    days = (job.partition(run.tags["dagster/partition"]) for run in runs)
    return any(StatusReader(job, day).read().state == "running" for day in days)


def runs_by_day(instance: DagsterInstance, backfill_id: str) -> dict[str, list[dict[str, Any]]]:
    """Of each day its runs, in their order: how each ended, and when it was launched and was over."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in reversed(instance.get_runs(RunsFilter(tags={BACKFILL_ID_TAG: backfill_id}))):
        stats = instance.get_run_stats(run.run_id)
        runs[run.tags["dagster/partition"]].append(
            {"status": run.status.value, "launch": stats.launch_time, "end": stats.end_time}
        )
    return runs


def wait_until(holds: Callable[[], Any], seconds: float) -> Any:
    """Returns what it returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds:.0f} seconds"
        time.sleep(POLL_SECONDS)
    return found


def check_answers(job: Job, plain: Job, days: list[str], compared: list[str], documents: int) -> None:
    """Each document once in each task; the compared days as `docmill run` answers them."""
    wanted = pl.read_parquet(f"{job.source.uri}/**/*.parquet", hive_partitioning=True).select("dt", "doc_id")
    assert wanted.height == documents * len(days)
    for task in job.tasks:
        rows, others = (
            pl.read_parquet(f"{each.output.uri}/{task}/**/*.parquet", hive_partitioning=True)
            for each in (job, plain)
        )
        assert rows.select("dt", "doc_id").sort("doc_id").equals(wanted.sort("doc_id")), f"{task}: other rows"
        rows = rows.filter(pl.col("dt").cast(pl.String).is_in(compared))
        columns = [name for name in rows.columns if name not in VARYING]
        rows, others = (each.select(columns).sort("doc_id") for each in (rows, others))
        differ = [name for name in columns if not rows[name].equals(others[name])]
        assert not differ, f"{task}: {', '.join(differ)} differ from those of `docmill run`"


def check_report(path: Path, days: list[str], documents: int) -> dict[str, Any]:
    """`docmill report` of the days: what it says in all."""
    command = [DOCMILL, "report", path, "--from", days[0], "--to", days[-1], "--json"]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert said["not_finished"] == []
    for task, total in said["tasks"].items():
        answers = total["ok"] + total["failed"] + total["skipped"]
        assert answers == total["documents"] == documents * len(days), f"{task}: {total}"
    total: dict[str, Any] = said["total"]
    return total


def measure(folder: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], Report]:
    """Figures, and a day's report for the machine and the versions."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    dates = [yesterday - timedelta(days=number) for number in reversed(range(arguments.days))]
    days = [str(day) for day in dates]
    compared = days[: arguments.plain]
    write_demo_days(
        str(folder / "documents"),
        seed=3,
        days=dates,
        documents_per_day=arguments.documents,
        shards_per_day=2,
    )
    plain_path, path = (
        write_job(folder, name, dates[0], arguments.engine) for name in ("one_by_one", "nights")
    )
    os.environ |= {"DOCMILL_JOBS": str(path.parent), "DOCMILL_HOME": str(folder / "home")}
    plain = run_plain(plain_path, compared)
    with running_uis(folder / "ui.txt") as start_ui:
        backfill = run_backfill(path, days, start_ui)
    job = load_job(str(path))
    check_answers(job, load_job(str(plain_path)), days, compared, arguments.documents)
    total = check_report(path, days, arguments.documents)
    of_days = []
    for day in days:
        report, runs = read_report(job.output.uri, job.partition(day)), backfill["runs"][day]
        assert report is not None
        held = sum(run["end"] - run["launch"] for run in runs)
        of_days.append({"day": day, "runs": [run["status"] for run in runs], "held_seconds": round(held, 1),
                        "earlier_seconds": round(report.earlier_worker_seconds, 1),
                        **figures_of(report, held, "dagster_seconds")})  # fmt: skip
    calm = [day for day in of_days if len(day["runs"]) == 1 and not day["earlier_seconds"]]
    redone = [day["day"] for day in calm if day["redone_tokens"]]
    assert not redone, f"work was done twice where nothing had happened: {redone}"
    for alone, day in zip(plain, of_days, strict=False):
        assert alone["once_tokens"] == day["once_tokens"], f"{day['day']}: other tokens than `docmill run`"
    return {
        "days": arguments.days,
        "documents_a_day": arguments.documents,
        "engine": arguments.engine,
        "threads_an_engine": int(os.environ["OMP_NUM_THREADS"]),
        "total": total,
        "answers": "each document once in each task; those of the plain days equal but for their scores",
        "once_tokens": sum(day["once_tokens"] for day in of_days),
        "redone_tokens": sum(day["redone_tokens"] for day in of_days),
        "wall_seconds": backfill["wall_seconds"],
        "empty_seconds": backfill["empty_seconds"],
        "killed": backfill["killed"],
        "runs_of_a_day": spread([len(day["runs"]) for day in of_days]),
        "in_dagster": sums_of(calm, "dagster_seconds"),
        "with_docmill_run": sums_of(plain, "process_seconds"),
        "seconds_of_docmill_run": spread([run["seconds"] for run in plain]),
        "each_day": of_days,
    }, report


def sums_of(runs: list[dict[str, Any]], lost: str) -> dict[str, dict[str, float]]:
    """Median and spread of the seconds of undisturbed runs."""
    names = ("docmill_seconds", "model_load_seconds", "engine_seconds", lost)
    return {name: spread([run[name] for run in runs]) for name in names}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--documents", type=int, default=60, help="of each day")
    options.add_argument("--plain", type=int, default=6, help="days that also run without Dagster")
    options.add_argument("--engine", choices=[*ENGINES], default="vllm")
    arguments = options.parse_args()
    if not arguments.days >= 4 or not 2 <= arguments.plain <= arguments.days:
        options.error("--days is 4 or more, and --plain 2 to --days")
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "DOCMILL_"))]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left running
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // PARALLEL))
    with tempfile.TemporaryDirectory(prefix="docmill-backfill-") as name:
        figures, report = measure(Path(name), arguments)
    a_day = figures["wall_seconds"] / figures["days"]
    write_result(
        "backfill",
        {"wall_seconds_a_day": round(a_day, 2), **figures},
        ratio=a_day / figures["seconds_of_docmill_run"]["median"],
        met=figures["killed"]["days_done"] < figures["days"],  # all else is asserted
        out=arguments.out,
        device=report.machine.device,
        engine_versions=report.versions,
    )


if __name__ == "__main__":
    main()
