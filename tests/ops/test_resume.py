"""A run that ends before its end, however it ends, is taken up again: only what was not durable is asked twice."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from counting_engine import CountingEngine

from docmill.data import segments, storage
from docmill.data.errors import StorageError
from docmill.data.layout import Layout
from docmill.engine.errors import EngineDied
from docmill.engine.types import Completion, Request, RequestError
from docmill.ops import feed, partition_job
from docmill.ops.errors import BudgetSpent, Stopped
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Report

TASKS = ["translations", "classifications", "summaries"]
FINE = {"ledger": {"unit_seconds": 0.1, "segment_seconds": 0.001, "segment_answers": 1, "lease_seconds": 1}}
DAY = "2026-11-20"


def fill(folder: Any, *, shards: int = 3, rows: int = 40) -> None:
    for number in range(shards):
        folder.write(f"s{number}", [f"Text {row} of shard {number}." for row in range(rows)])


def all_answers(folder: Any, shards: int = 3) -> dict[str, list[dict[str, Any]]]:
    return {
        f"{task}/s{number}": folder.answers(task, f"s{number}") for task in TASKS for number in range(shards)
    }


def undisturbed(folder: Any) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """The right answers, and how many requests they take. Leaves the output empty."""
    engine = CountingEngine()
    folder.run(engine=engine, **FINE)
    answers = all_answers(folder)
    storage.delete_folder(f"{folder.uri}/answers")
    return answers, len(engine.requests)


@pytest.mark.parametrize("dies_after", [0, 7, 100, 355])
def test_what_was_answered_before_the_engine_died_is_not_asked_again(folder: Any, dies_after: int) -> None:
    fill(folder)
    right, num_requests = undisturbed(folder)
    dying = CountingEngine(dies_after=dies_after)
    with pytest.raises(EngineDied):
        folder.run(engine=dying, **FINE)
    engine = CountingEngine()
    report = folder.run(engine=engine, **FINE)
    assert len(dying.requests) + len(engine.requests) == num_requests + dying.in_flight_at_death
    assert all_answers(folder) == right
    assert report.requests == num_requests
    assert report.tokens.prompt == sum(row["prompt_tokens"] for rows in right.values() for row in rows)


def test_what_is_lost_with_a_worker_is_what_came_since_its_last_segment(folder: Any, runner: Runner) -> None:
    fill(folder)
    right, num_requests = undisturbed(folder)
    # One unit, so that a segment is of fifty answers and not of fifty over several units.
    every_50 = {
        "ledger": {"unit_seconds": 600, "lease_seconds": 1, "segment_seconds": 600, "segment_answers": 50}
    }
    killed = runner.kill_when(folder, lambda: num_segments(folder) >= 2, pause=0.02, **every_50)
    durable = [len(rows) for rows in durable_segments(folder)]
    engine = CountingEngine()
    folder.run(engine=engine, **every_50)
    assert killed
    assert len(durable) >= 2
    assert all(50 <= rows < 60 for rows in durable), "the engine hands over five at a time"
    assert len(engine.requests) == num_requests - sum(durable)
    assert all_answers(folder) == right


def test_a_run_that_is_taken_up_reads_only_segments_of_unfinished_units(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, shards=6)
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=420), **FINE)
    layout = Layout(f"{folder.uri}/answers", folder.job().partition(DAY))
    done = {file.name.split("/")[-1].removesuffix(".json") for file in storage.list_files(layout.ledgers_folder)
            if "/done/" in file.name}  # fmt: skip
    assert done, "the engine dies too soon for this test"
    listed: list[str] = []
    real = segments.read_segments

    def noting(folders: Any) -> Any:
        folders = list(folders)
        listed.extend(folders)
        return real(folders)

    monkeypatch.setattr("docmill.ops.segment_writer.read_segments", noting)
    folder.run(engine=CountingEngine(), **FINE)
    read = {uri.rsplit("/", 1)[-1] for uri in listed}
    assert read
    assert read.isdisjoint(done)


def test_a_changed_prompt_asks_everything_of_its_task_again_and_nothing_of_the_others(folder: Any) -> None:
    fill(folder)
    changed = {
        "tasks": {**folder.job().model_dump()["tasks"], "summaries": {"kind": "summarize", "max_words": 7}}
    }
    folder.run(engine=CountingEngine(), **FINE, **changed)
    right = all_answers(folder)
    storage.delete_folder(f"{folder.uri}/answers")
    dying = CountingEngine(dies_after=150)
    with pytest.raises(EngineDied):
        folder.run(engine=dying, **FINE)
    engine = CountingEngine()
    folder.run(engine=engine, **FINE, **changed)
    assert all_answers(folder) == right
    per_task = 3 * 40
    assert len(engine.requests) >= per_task
    assert len(engine.requests) < 3 * per_task, "answers of the other tasks are used"


def test_a_changed_shard_asks_only_its_own_units_again(folder: Any) -> None:
    fill(folder)
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=330), **FINE)
    folder.write("s0", [f"New text {row}." for row in range(40)])
    engine = CountingEngine()
    folder.run(engine=engine, **FINE)
    assert 3 * 40 <= len(engine.requests) <= 3 * 40 + 30 + 5
    assert all(row["doc_id"].startswith("s0") for row in folder.answers("summaries", "s0"))
    answers = all_answers(folder)
    storage.delete_folder(f"{folder.uri}/answers")
    folder.run(engine=CountingEngine(), **FINE)
    assert all_answers(folder) == answers


def test_a_shard_that_is_rewritten_under_a_run_is_planned_anew(folder: Any) -> None:
    fill(folder)
    rewritten: list[bool] = []

    class Rewriting(CountingEngine):
        def completions(self, timeout_seconds: float) -> list[Completion]:
            if self._given > 200 and not rewritten:
                rewritten.append(True)
                folder.write("s1", [f"Rewritten {row}." for row in range(25)])
            return super().completions(timeout_seconds)

    report = folder.run(engine=Rewriting(), **FINE)
    assert rewritten
    assert report.documents == 40 + 25 + 40
    answers = all_answers(folder)
    storage.delete_folder(f"{folder.uri}/answers")
    folder.run(engine=CountingEngine(), **FINE)
    assert all_answers(folder) == answers


RUNNER = textwrap.dedent("""
    import json, os, signal, sys, time, traceback
    from docmill.engine.config import ModelConfig
    from docmill.engine.fake_engine import FakeEngine
    from docmill.engine.tokenizer import ModelTokenizer
    from docmill.ops.job import Job
    from docmill.ops.partition_job import run_partition

    class Slow(FakeEngine):
        def completions(self, timeout_seconds):
            time.sleep(pause)
            held.extend(super().completions(0.0))
            given, held[:] = held[:5], held[5:]
            return given

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    tokenizer, held = ModelTokenizer(ModelConfig()), []
    print("ready", flush=True)
    for line in sys.stdin:
        job, pause, out = json.loads(line)
        if pid := os.fork():
            print(pid, flush=True)
            continue
        try:
            job = Job.model_validate(job)
            report = run_partition(job, job.partition("2026-11-20"), engine=Slow(), tokenizer=tokenizer)
            text = report.model_dump_json()
        except BaseException:
            text = traceback.format_exc()
        with open(out + ".new", "w") as stream:
            stream.write(text)
        os.rename(out + ".new", out)
        os._exit(0)
""")


class Runner:
    """Starts runs in processes of their own, in no time: they are forked from one that has loaded everything."""

    def __init__(self, folder: Path):
        self._folder, self._number = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self, folder: Any, *, pause: float, **changes: Any) -> tuple[int, Path]:
        """The process, and where its report will lie."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        out = self._folder / f"report-{self._number}"
        job = folder.job(**changes).model_dump(mode="json", exclude_unset=True)
        self._process.stdin.write(json.dumps([job, pause, str(out)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), out

    def kill_when(self, folder: Any, ready: Callable[[], bool], *, pause: float, **changes: Any) -> bool:
        """Start a run and kill it at a moment; False where it had ended before."""
        pid, out = self.start(folder, pause=pause, **changes)
        try:
            wait_until(lambda: out.exists() or ready())
        finally:
            kill(pid)
        return not out.exists()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def wait_until(ready: Callable[[], bool], *, seconds: float = 80) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.005)


def kill(pid: int) -> None:
    """And wait until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_until(lambda: not psutil.pid_exists(pid), seconds=10)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runs"))
    yield runner
    runner.close()


def segment_files(folder: Any) -> list[storage.FoundFile]:
    return storage.list_files(Layout(f"{folder.uri}/answers", folder.job().partition(DAY)).segments_folder)


def num_segments(folder: Any) -> int:
    return len(segment_files(folder))


def durable_segments(folder: Any) -> list[list[str]]:
    """The request keys of each segment."""
    tables = (pq.read_table(io.BytesIO(storage.read_bytes(file.uri))) for file in segment_files(folder))
    return [table["request_key"].to_pylist() for table in tables]


def test_a_run_that_is_killed_again_and_again_ends_with_every_row_once(folder: Any, runner: Runner) -> None:
    fill(folder)
    right, num_requests = undisturbed(folder)
    draw, num_killed = random.Random(7), 0
    for _ in range(5):
        enough = num_segments(folder) + draw.randrange(12)
        moment = draw.uniform(0.0, 0.1)

        def at_a_moment(enough: int = enough, moment: float = moment) -> bool:
            time.sleep(moment)
            return num_segments(folder) >= enough

        num_killed += runner.kill_when(folder, at_a_moment, pause=0.1, **FINE)
    assert num_killed == 5
    engine = CountingEngine()
    report = folder.run(engine=engine, **FINE)
    assert all_answers(folder) == right
    assert len(engine.requests) < num_requests, "something of the killed runs was of use"
    assert report.requests == num_requests
    assert_nothing_is_left(folder)


def assert_nothing_is_left(folder: Any) -> None:
    root = Path(folder.uri) / "answers" / "_docmill" / "dt=2026-11-20"
    left = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert left <= {"manifest.json", "plan.parquet", "report.json", "dead_letters.parquet"}


def test_two_runs_at_the_same_time_share_the_work_and_both_report(folder: Any, runner: Runner) -> None:
    fill(folder)
    right, num_requests = undisturbed(folder)
    runs = [runner.start(folder, pause=0.02, **FINE) for _ in range(2)]
    try:
        wait_until(lambda: all(out.exists() for _, out in runs))
    finally:
        for pid, _ in runs:
            kill(pid)
    reports = [Report.model_validate_json(out.read_text()) for _, out in runs]
    assert all_answers(folder) == right
    assert [report.documents for report in reports] == [120, 120]
    assert [report.requests for report in reports] == [num_requests] * 2
    assert_nothing_is_left(folder)
    plan = json.loads(storage.read_bytes(f"{folder.uri}/answers/_docmill/dt=2026-11-20/report.json"))["plan"]
    assert {report.plan for report in reports} == {plan}


def test_a_run_that_is_told_to_stop_ends_soon_and_is_taken_up(folder: Any) -> None:
    fill(folder)
    right, num_requests = undisturbed(folder)
    stop = threading.Event()

    class Stopping(CountingEngine):
        def completions(self, timeout_seconds: float) -> list[Completion]:
            if self._given >= 100:
                stop.set()
                time.sleep(0.1)  # it is looked at every half a second
            return super().completions(timeout_seconds)

    engine = Stopping(pause=0.02)
    job = folder.job(engine={"kind": "fake", "max_in_flight": 8}, **FINE)
    began = time.monotonic()
    with pytest.raises(Stopped, match="units of work are left") as caught:
        run_partition(job, job.partition(DAY), engine=engine, tokenizer=folder.tokenizer, stop=stop)
    assert time.monotonic() - began < 15
    assert caught.value.num_units_left > 0
    second = CountingEngine()
    folder.run(engine=second, **FINE)
    assert len(engine.requests) + len(second.requests) == num_requests, (
        "what was in the engine was waited for"
    )
    assert all_answers(folder) == right


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_hours": 0.5 / 3600}, "max_hours"),
        ({"max_usd": 0.005}, "max_usd"),  # at 36 dollars an hour: half a second
        ({"max_failed_share": 0.1}, "max_failed_share: .* answers failed, more than 10.0%"),
    ],
)
def test_a_spent_budget_stops_the_run_and_a_larger_one_takes_it_up(
    folder: Any, monkeypatch: pytest.MonkeyPatch, budget: dict[str, float], said: str
) -> None:
    monkeypatch.setattr("docmill.ops.brake.LOOK_SECONDS", 0.1)
    fill(folder)

    def every_fifth(request: Request) -> RequestError | None:
        return RequestError("rejected", "as scripted") if sum(request.prompt_token_ids) % 5 == 0 else None

    more = {**FINE, "prices": {"usd_per_hour": {"cpu": 36.0}}}
    engine = CountingEngine(pause=0.05, fail=every_fifth)
    with pytest.raises(BudgetSpent, match=said):
        folder.run(engine=engine, budget=budget, **more)
    assert folder.manifest() is None
    second = CountingEngine(fail=every_fifth)
    report = folder.run(engine=second, **more)
    assert len(engine.requests) + len(second.requests) == report.requests
    assert report.documents == 120
    assert report.earlier_worker_seconds > 0


def test_a_run_that_was_killed_while_it_cleaned_up_is_not_paid_for_again(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder)
    real = storage.delete_folder
    for fatal in range(1, 6):
        calls = []

        def dying(uri: str, fatal: int = fatal, calls: list[str] = calls) -> None:
            calls.append(uri)
            if len(calls) == fatal:
                raise KeyboardInterrupt
            real(uri)

        with monkeypatch.context() as patched:
            patched.setattr("docmill.data.storage.delete_folder", dying)
            with pytest.raises(KeyboardInterrupt):
                folder.run(engine=CountingEngine(), **FINE)
        manifest, answers = folder.manifest(), all_answers(folder)
        engine = CountingEngine()
        report = folder.run(engine=engine, **FINE)
        assert (len(engine.requests), report.documents) == (0, 120)
        assert folder.manifest() == manifest
        assert all_answers(folder) == answers
        assert_nothing_is_left(folder)
    engine = CountingEngine()
    folder.run(engine=engine, **FINE)
    assert len(engine.requests) == 360, "a run of what was finished in good order does it anew"


def test_the_unfinished_work_of_other_tasks_outlives_a_finished_run(folder: Any) -> None:
    fill(folder)
    with pytest.raises(EngineDied):
        folder.run(tasks=["summaries"], engine=CountingEngine(dies_after=100), **FINE)
    time.sleep(1.1)  # its ledger is not that of a living run any more
    folder.run(tasks=["translations"], engine=CountingEngine(), **FINE)
    engine = CountingEngine()
    folder.run(tasks=["summaries"], engine=engine, **FINE)
    assert len(engine.requests) == 20
    assert_nothing_is_left(folder)


def test_parts_that_somebody_removed_are_made_again(folder: Any) -> None:
    """A rule of the bucket's may do so. It is no reason to fail for ever."""
    fill(folder)
    right, _ = undisturbed(folder)
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=300), **FINE)
    layout = Layout(f"{folder.uri}/answers", folder.job().partition(DAY))
    parts = storage.list_files(layout.all_parts_folder)
    assert parts
    storage.delete_files([file.uri for file in parts[::2]])
    report = folder.run(engine=CountingEngine(), **FINE)
    assert report.documents == 120
    assert all_answers(folder) == right
    assert_nothing_is_left(folder)


def test_answers_of_other_engine_settings_are_not_used(folder: Any) -> None:
    fill(folder)
    folder.settings = {"engine": {"kind": "fake", "dtype": "bfloat16"}}
    dying = CountingEngine(dies_after=200)
    with pytest.raises(EngineDied):
        folder.run(engine=dying, **FINE)
    assert num_segments(folder) > 0
    folder.settings = {"engine": {"kind": "fake", "dtype": "float32"}}
    engine = CountingEngine()
    report = folder.run(engine=engine, **FINE)
    assert len(engine.requests) == report.requests == 360


def test_work_that_was_never_finished_is_not_taken_for_finished_when_the_source_is_as_before(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard came, was answered but not committed, and left: its output must leave too."""
    fill(folder, shards=1)
    folder.run(**FINE)
    folder.write("s1", ["came and went"])
    with monkeypatch.context() as patched:
        patched.setattr(partition_job, "_commit", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            folder.run(**FINE)
    assert len(folder.files("summaries")) == 2
    folder.remove("s1")
    folder.run(**FINE)
    assert [file.name for file in folder.files("summaries")] == ["s0.parquet"]


@pytest.mark.parametrize("kind", ["parts", "ledger"])
def test_files_that_a_power_cut_left_empty_are_made_anew(
    folder: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fill(folder)
    right, num_requests = undisturbed(folder)
    with monkeypatch.context() as patched:
        patched.setattr(partition_job, "assemble", lambda *_, **__: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            folder.run(engine=CountingEngine(), **FINE)
    files = [path for path in Path(folder.uri, "answers", "_docmill").rglob("*") if path.is_file()]
    found = [path for path in files if f"/{kind}/" in str(path) and path.name != "origin.json"]
    assert len(found) > 3
    for path in found:
        path.write_bytes(b"")
    report = folder.run(engine=CountingEngine(), **FINE)
    assert all_answers(folder) == right
    assert report.requests == num_requests


def test_a_disk_that_fails_for_a_moment_costs_no_shard(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is to blame for it: the run ends, and the next one reads the file."""
    fill(folder)
    real, reads = feed.ShardReader, 0

    def reader(*args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise StorageError("/documents", "OSError: [Errno 5] Input/output error")
        return real(*args, **kwargs)

    monkeypatch.setattr(feed, "ShardReader", reader)
    with pytest.raises(StorageError, match="Input/output"):
        folder.run(**FINE)
    report = folder.run(**FINE)
    assert not report.failed_shards
    assert report.documents == 120
