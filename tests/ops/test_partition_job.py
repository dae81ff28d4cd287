"""A run over a partition: what it writes, in what order, and what it leaves alone.

`folder.run` (conftest) also checks after every run that the counts balance and that the manifest and the folders
agree.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from docmill.data import storage
from docmill.data.errors import StorageError
from docmill.data.layout import Layout, answers_glob
from docmill.data.ledger import Beat, Done, Ledger
from docmill.data.plan import Plan
from docmill.data.records import Usage
from docmill.engine.errors import EngineDied, ModelChanged
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion, Request
from docmill.ops import partition_job, planning, reuse, unit_answers
from docmill.ops.assembling import Overtaken
from docmill.ops.errors import JobError, NoShards
from docmill.ops.feed import BATCH_ROWS, BatchReady
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.progress import Progress
from docmill.ops.report import Report
from docmill.ops.unit_answers import UnitAnswers

TASKS = ["translations", "classifications", "summaries"]


@pytest.mark.parametrize("order", ["oldest first", "newest first"])
def test_rows_are_in_input_order_whatever_the_order_of_the_answers(
    folder: Any, scripted: Callable[..., Any], order: str
) -> None:
    for name in ("a", "b"):
        folder.write(name, [f"Text {number} in {name}." for number in range(40)], number=list(range(40)))
    folder.run(
        engine=scripted(order=order, max_num_seqs=7),
        source={"uri": f"{folder.uri}/documents", "carry": ["number"]},
    )
    for name in ("a", "b"):
        rows = folder.rows("translations", name)
        assert [row["number"] for row in rows] == list(range(40))
        assert [row["doc_id"] for row in rows] == [f"{name}-{number}" for number in range(40)]
        assert [row["translation"] for row in rows] == [f"Text {number} in {name}." for number in range(40)]


def test_each_task_has_a_file_for_each_shard_under_its_name(folder: Any) -> None:
    folder.write("a", ["eins"])
    folder.write("deep/er/b", ["zwei", "drei"])
    folder.run()
    for task in TASKS:
        assert [shard.name for shard in folder.files(task)] == ["a.parquet", "deep/er/b.parquet"]
        table = pl.read_parquet(answers_glob(f"{folder.uri}/answers", task), hive_partitioning=True)
        assert table.height == 3
        assert set(table["status"]) == {"ok"}
        assert set(table["dt"].cast(pl.String)) == {"2026-11-20"}


def test_the_columns_are_the_contract(folder: Any) -> None:
    folder.write("a", ["eins"], language=["de"], n=pa.array([7], pa.int16()))
    started = datetime.now(UTC)
    folder.run(source={"uri": f"{folder.uri}/documents", "carry": ["n", "language"]})
    common = [
        "error",
        "prompt_tokens",
        "cached_tokens",
        "output_tokens",
        "finish_reason",
        "request_key",
        "model",
    ]
    own = {
        "translations": ["translation"],
        "classifications": ["label", "score", "label_scores"],
        "summaries": ["summary"],
    }
    for task, columns in own.items():
        table = folder.table(task, "a")
        assert table.schema.names == ["doc_id", "n", "language", "status", *columns, *common, "produced_at"]
        assert table.schema.field("n").type == pa.int16()
        (row,) = table.to_pylist()
        assert row["n"] == 7
        assert row["error"] is None
        assert row["prompt_tokens"] > 0
        assert row["finish_reason"] == "stop"
        assert len(row["request_key"]) == 32
        assert started <= row["produced_at"] <= datetime.now(UTC)


def test_a_second_run_replaces_and_never_appends(folder: Any) -> None:
    folder.write("a", ["eins", "zwei"])
    folder.write("b", ["drei"])
    first = folder.run()
    before = [folder.answers(task, "a") for task in TASKS]
    second = folder.run()
    assert [folder.answers(task, "a") for task in TASKS] == before
    assert second.documents == first.documents == 3
    folder.write("a", ["neu"])
    folder.run()
    assert [row["doc_id"] for row in folder.rows("summaries", "a")] == ["a-0"]
    assert [shard.name for shard in folder.files("summaries")] == ["a.parquet", "b.parquet"]


def test_a_shard_that_left_the_source_loses_its_answers(folder: Any) -> None:
    folder.write("a", ["eins"])
    folder.write("b", ["zwei"])
    folder.write("b", ["anderer Tag"], day="2026-11-19")
    folder.run(day="2026-11-19")
    folder.run()
    folder.remove("b")
    folder.run()
    assert [shard.name for shard in folder.files("summaries")] == ["a.parquet"]
    assert [shard.name for shard in folder.files("summaries", day="2026-11-19")] == ["b.parquet"]


def test_files_of_others_in_the_output_stay(folder: Any) -> None:
    folder.write("a", ["eins"])
    job = folder.job()
    day = job.partition("2026-11-20")
    foreign = f"{Layout(job.output.uri, day).answers_folder('translations')}/mine.parquet"
    with storage.open_filesystem(foreign)[0].open(foreign, "wb") as stream:
        pl.DataFrame({"x": [1]}).write_parquet(stream)
    run_partition(job, day, engine=FakeEngine())
    assert storage.exists(foreign)


def test_another_jobs_output_is_refused_before_anything_is_done(folder: Any) -> None:
    folder.write("a", ["eins"])
    folder.run()
    other = folder.job().model_copy(update={"name": "other"})
    with pytest.raises(JobError, match="holds the answers of job"):
        run_partition(other, other.partition("2026-11-20"), engine=FakeEngine())


def test_a_run_of_some_tasks_leaves_the_others_alone(folder: Any) -> None:
    folder.write("a", ["eins"])
    folder.run()
    before = folder.rows("translations", "a")
    manifest = folder.manifest()
    report = folder.run(tasks=["summaries"])
    assert list(report.tasks) == ["summaries"]
    assert folder.rows("translations", "a") == before
    assert folder.rows("summaries", "a") != before
    after = folder.manifest()
    assert after.tasks["translations"] == manifest.tasks["translations"]
    assert after.tasks["summaries"].finished_at > manifest.tasks["summaries"].finished_at


def test_one_task_alone_gives_the_answers_that_it_gives_among_all(folder: Any) -> None:
    folder.write(
        "a", [f"Ein Satz mit {number}. " * 200 for number in range(3)]
    )  # long: cut for the tightest task
    folder.run()
    together = [folder.answers(task, "a") for task in TASKS]
    for task in TASKS:
        folder.run(tasks=[task])
    assert [folder.answers(task, "a") for task in TASKS] == together


def test_an_unknown_task_is_named_before_anything_is_done(folder: Any) -> None:
    folder.write("a", ["eins"])
    with pytest.raises(
        JobError, match=r"no task 'sumaries'; the job has translations, classifications, summaries"
    ):
        folder.run(tasks=["sumaries"])
    assert folder.files("summaries") == []


def test_an_unpartitioned_source_is_one_run(folder: Any) -> None:
    folder.write("a", ["eins"], day="2026-11-19")
    folder.write("a", ["zwei"], ids=["other"])
    job = folder.job(source={"uri": f"{folder.uri}/documents", "partition_key": None})
    report = run_partition(job, job.partition(None), tokenizer=folder.tokenizer)
    assert (report.partition, report.documents, report.shards) == ("all", 2, 2)
    shards = storage.list_shards(f"{folder.uri}/answers/summaries")
    assert [shard.name for shard in shards] == ["dt=2026-11-19/a.parquet", "dt=2026-11-20/a.parquet"]


def test_a_long_document_is_cut_and_its_translation_joined_in_order(
    folder: Any, scripted: Callable[..., Any]
) -> None:
    text = "\n\n".join(f"Absatz {number} steht hier. Er hat zwei Sätze." for number in range(60))
    folder.write("a", [text, "kurz"])
    engine = scripted()
    report = folder.run(engine=engine, chunking={"max_tokens": 50})
    assert report.chunked_documents == 1
    twice = sum(task.duplicate_requests for task in report.tasks.values())  # two chunks of the same words
    assert report.requests == len(engine.requests) + twice > 40
    rows = folder.rows("translations", "a")
    assert rows[0]["translation"].split() == text.split()
    assert rows[0]["translation"].count("\n\n") > 5, "paragraphs stay apart where chunks are cut there"
    assert rows[1]["translation"] == "kurz"


def test_the_report_adds_up(folder: Any) -> None:
    folder.write("a", ["eins", None, "", "ein Text. " * 1000])
    folder.write("b", ["zwei"])
    report = folder.run(prices={"usd_per_hour": {"cpu": 36.0}})
    assert (report.shards, report.documents, report.failed_shards) == (2, 5, [])
    for name, task in report.tasks.items():
        assert (task.counts.rows, task.counts.ok, task.counts.failed, task.counts.skipped) == (5, 3, 1, 1), (
            name
        )
        assert task.errors == {"text_missing": 1, "text_empty": 1}
    for count in ("prompt", "cached", "output"):
        assert getattr(report.tokens, count) == sum(
            getattr(task.tokens, count) for task in report.tasks.values()
        )
        rows = [row for task in TASKS for shard in "ab" for row in folder.rows(task, shard)]
        assert getattr(report.tokens, count) == sum(row[f"{count}_tokens"] for row in rows)
    assert report.requests == sum(task.requests for task in report.tasks.values())
    assert report.cost.usd == pytest.approx(report.seconds.wall * 0.01)
    assert report.cost.usd == pytest.approx(sum(task.usd for task in report.tasks.values()))
    assert report.cost.usd_per_1000_documents == pytest.approx(report.cost.usd / 5 * 1000)
    assert report.rates.documents_per_second > 0
    assert report.seconds.write > 0
    assert report.peak_memory_mib > 50


def test_the_stored_report_is_the_one_that_is_returned(folder: Any) -> None:
    folder.write("a", ["eins"])
    report = folder.run()
    stored = json.loads(storage.read_bytes(f"{folder.uri}/answers/_docmill/dt=2026-11-20/report.json"))
    assert stored == json.loads(report.model_dump_json())
    assert stored["report_version"] == 1


def test_without_a_price_the_cost_is_unknown_and_not_nothing(folder: Any) -> None:
    folder.write("a", ["eins"])
    report = folder.run(prices={"usd_per_hour": {"nvidia": 3.0}})
    assert report.cost.usd is None
    assert all(task.usd is None for task in report.tasks.values())


class DyingEngine(FakeEngine):
    """Answers ten times."""

    def completions(self, timeout_seconds: float) -> list[Completion]:
        if self._num_taken >= 10:
            raise EngineDied("killed", self.num_in_flight)
        return super().completions(timeout_seconds)[:10]


def test_a_run_whose_engine_dies_leaves_what_was_there(folder: Any) -> None:
    folder.write("a", ["alt"] * 20)
    folder.run()
    before = [folder.rows(task, "a") for task in TASKS]
    manifest = folder.manifest()
    folder.write("a", [f"neu {number}" for number in range(50)])
    with pytest.raises(EngineDied):
        folder.run(engine=DyingEngine())
    assert [folder.rows(task, "a") for task in TASKS] == before
    assert folder.manifest() == manifest
    folder.run()
    assert folder.table("summaries", "a").num_rows == 50


def test_a_model_that_was_made_anew_after_planning_answers_nothing(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", ["alt"] * 5)
    with monkeypatch.context() as patch, pytest.raises(ModelChanged, match="Run the job again"):
        patch.setattr(partition_job, "model_fingerprint_of", lambda *_: "before")
        folder.run()
    folder.run()
    assert folder.table("summaries", "a").num_rows == 5


def test_the_manifest_is_written_last(folder: Any) -> None:
    folder.write("a", ["eins"] * 3)
    folder.run()
    finished = datetime.fromtimestamp(
        _modified(f"{folder.uri}/answers/_docmill/dt=2026-11-20/manifest.json"), tz=UTC
    )
    others = [shard.uri for task in TASKS for shard in folder.files(task)]
    others.append(f"{folder.uri}/answers/_docmill/dt=2026-11-20/report.json")
    assert all(datetime.fromtimestamp(_modified(uri), tz=UTC) <= finished for uri in others)


def _modified(uri: str) -> float:
    filesystem, path = storage.open_filesystem(uri)
    return filesystem.info(path)["mtime"]


def test_where_the_manifest_cannot_be_written_there_is_none(folder: Any) -> None:
    folder.write("a", ["eins"])
    storage.put_bytes(f"{folder.uri}/answers/_docmill/dt=2026-11-20/report.json/in_the_way", b"")
    job = folder.job()
    with pytest.raises(StorageError, match=r"report\.json"):
        run_partition(job, job.partition("2026-11-20"), tokenizer=folder.tokenizer)
    assert folder.manifest() is None


def test_a_run_leaves_no_other_file_in_the_output(folder: Any) -> None:
    folder.write("a", ["eins"])
    folder.run()
    filesystem, root = storage.open_filesystem(f"{folder.uri}/answers")
    found = sorted(path.removeprefix(root + "/") for path in filesystem.find(root))
    day = "dt=2026-11-20"
    assert found == sorted(
        [
            "_docmill/profile.json",
            f"_docmill/{day}/manifest.json",
            f"_docmill/{day}/plan.parquet",
            f"_docmill/{day}/report.json",
            *(f"{task}/{day}/a.parquet" for task in TASKS),
        ]
    )


class SlowlyAnsweringEngine(FakeEngine):
    """Gives its completions one at a time, so that a run has time to show how far it is."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Completion] = []

    def completions(self, timeout_seconds: float) -> list[Completion]:
        time.sleep(0.02)
        self._held += super().completions(0.0)
        return [self._held.pop()] if self._held else []


def test_progress_only_grows_and_ends_with_all(folder: Any) -> None:
    for name in ("a", "b", "c"):
        folder.write(name, [f"Text {number} of {name}" for number in range(12)])
    seen: list[Progress] = []
    report = folder.run(engine=SlowlyAnsweringEngine(), on_progress=seen.append)
    assert [progress.stage for progress in seen[:2]] == ["planning", "loading model"]
    assert [progress.stage for progress in seen[-1:]] == ["writing"]
    assert {progress.stage for progress in seen[2:-1]} == {"running"}
    for earlier, later in pairwise(seen):
        assert earlier.num_documents_done <= later.num_documents_done
        assert earlier.num_output_tokens <= later.num_output_tokens
        assert earlier.seconds <= later.seconds
    assert all(progress.num_documents_done <= (progress.num_documents_total or 0) for progress in seen[2:])
    for last in seen[-2:]:  # the worker's own, and the one while files are put together
        assert last.num_documents_done == last.num_documents_total == 36
        assert last.num_output_tokens == sum(task.tokens.output for task in report.tasks.values()) > 0
        assert last.num_prompt_tokens == sum(task.tokens.prompt for task in report.tasks.values()) > 0
    assert len(seen) > 3


def test_a_workers_last_beat_tells_all_it_has_done(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[Beat] = []
    write = Ledger.beat
    monkeypatch.setattr(Ledger, "beat", lambda ledger, beat: (beats.append(beat), write(ledger, beat))[1])
    folder.write("a", ["eins", "zwei"])
    report = folder.run()
    last = beats[-1]
    assert last.ended
    assert last.num_rows_done == 2
    assert last.num_output_tokens == sum(task.tokens.output for task in report.tasks.values()) > 0
    assert last.num_prompt_tokens == sum(task.tokens.prompt for task in report.tasks.values()) > 0


def test_a_slow_document_holds_back_its_unit_alone(
    folder: Any, scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of its unit wait in memory, a bounded number of them; those of all others are written meanwhile."""
    monkeypatch.setattr(unit_answers, "MAX_OPEN_ROWS", 1000)
    monkeypatch.setattr(planning, "MAX_UNIT_ROWS", 400)
    folder.write("a", ["langsam"] + [f"Text {number}" for number in range(5000)])
    layout = Layout(f"{folder.uri}/answers", folder.job().partition("2026-11-20"))
    engine = SlowForOne(folder.tokenizer, scripted(), layout.ledgers_folder)
    report = folder.run(engine=engine, tasks=["translations"])
    assert report.tasks["translations"].counts.ok == 5001
    assert engine.units_done_before_the_slow_one >= 5000 // 400 - 1
    assert report.idle.draining > 0.8, "nothing was left to ask while the last answer was waited for"
    assert [row["doc_id"] for row in folder.rows("translations", "a")] == [f"a-{n}" for n in range(5001)]


def test_a_slow_store_holds_back_new_rows(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that wait to be written are in memory too."""
    monkeypatch.setattr(unit_answers, "MAX_OPEN_ROWS", 600)
    monkeypatch.setattr(planning, "MAX_UNIT_ROWS", 200)
    put, open_batch, finish = storage.put_bytes, UnitAnswers.open_batch, Ledger.finish
    num_opened = num_written = most_held = 0

    def put_slowly(uri: str, content: bytes) -> None:
        time.sleep(0.05 if uri.endswith(".arrow") else 0)
        put(uri, content)

    def open_counted(answers: UnitAnswers, event: BatchReady) -> Any:
        nonlocal num_opened, most_held
        num_opened += len(event.rows)
        most_held = max(most_held, num_opened - num_written)
        return open_batch(answers, event)

    def finish_counted(ledger: Ledger, done: Done) -> bool:
        nonlocal num_written
        num_written += done.figures["rows"]
        return finish(ledger, done)

    monkeypatch.setattr(storage, "put_bytes", put_slowly)
    monkeypatch.setattr(UnitAnswers, "open_batch", open_counted)
    monkeypatch.setattr(Ledger, "finish", finish_counted)
    folder.write("a", [f"Text {number}" for number in range(4000)])
    report = folder.run(tasks=["translations"])
    assert report.tasks["translations"].counts.ok == num_written == 4000
    assert 300 < most_held <= 600 + BATCH_ROWS


def test_written_answers_are_let_go_without_the_garbage_collector(folder: Any) -> None:
    """Which comes so rarely that two units' answers in three were waiting for it."""
    folder.write("a", [f"Text {number}" for number in range(300)])
    folder.put("b", b"no Parquet")
    gc.collect()
    gc.disable()
    try:
        folder.run()
        assert [held for held in gc.get_objects() if type(held).__name__ == "_OpenBatch"] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("before_it_writes", [True, False])
def test_a_run_that_another_has_finished_plans_nothing_anew(
    folder: Any, monkeypatch: pytest.MonkeyPatch, before_it_writes: bool
) -> None:
    """What the other has answered would be read back for it, all at once: three times the memory of a run."""
    folder.settings |= {"reuse": {"runs": 1}}
    folder.write("a", [f"Text {number}" for number in range(30)])
    assemble, take_over = partition_job.assemble, reuse.take_over
    plans: list[Plan] = []
    finished: list[Report] = []

    def overtaken(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(partition_job, "assemble", assemble)
        assembled = None if before_it_writes else assemble(*args, **options)
        finished.append(folder.run())
        if assembled is None:
            raise Overtaken
        return assembled

    def counted(job: Job, layout: Layout, plan: Plan, *others: Any) -> str | None:
        plans.append(plan)
        return take_over(job, layout, plan, *others)

    monkeypatch.setattr(partition_job, "assemble", overtaken)
    monkeypatch.setattr(reuse, "take_over", counted)
    report = folder.run()
    assert len(plans) == 2, "one of each run"
    assert report.documents == finished[0].documents == 30


class SlowForOne:
    """Keeps the first request until nothing else is left to answer."""

    def __init__(self, tokenizer: Any, inner: Any, ledgers: str):
        self._ledgers = ledgers
        self._inner, self.info, self.incidents = inner, inner.info, ()
        self.busy_seconds, self.num_tokens, self.load = 0.0, 0, inner.load
        self._slow: Request | None = None
        self._first = True
        self._seen_idle = 0
        self.units_done_before_the_slow_one = 0

    @property
    def num_in_flight(self) -> int:
        return self._inner.num_in_flight + (self._slow is not None)

    def submit(self, request: Request) -> None:
        if self._first:
            self._slow, self._first = request, False
        else:
            self._inner.submit(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        done = self._inner.completions(timeout_seconds)
        if self._slow is not None:
            self._seen_idle = 0 if done else self._seen_idle + 1
            time.sleep(0 if done else 0.1)  # the writer may have something to do still
            if self._seen_idle > 10:
                files = storage.list_files(self._ledgers)
                self.units_done_before_the_slow_one = sum("/done/" in file.name for file in files)
                self._inner.submit(self._slow)
                self._slow = None
        return done

    def close(self) -> None:
        self._inner.close()


def test_an_engine_that_was_given_stays_open_and_its_usage_is_of_this_run(
    folder: Any, scripted: Callable[..., Any]
) -> None:
    folder.write("a", ["eins"])
    engine = scripted()
    first = folder.run(engine=engine)
    second = folder.run(engine=engine)
    assert not engine.closed
    assert second.tokens == first.tokens
    assert second.requests == first.requests == 3


def test_a_context_too_small_for_a_task_is_said_before_a_document_is_read(folder: Any) -> None:
    folder.write("a", ["eins"])
    with pytest.raises(
        JobError, match=r"tasks\.summaries: .* leave -?\d+ tokens for the document in a context of 150"
    ):
        folder.run(engine=FakeEngine(max_model_len=150))


def test_no_shards_names_the_days_that_there_are(folder: Any) -> None:
    for day in ("2026-11-18", "2026-11-19"):
        folder.write("a", ["eins"], day=day)
    with pytest.raises(NoShards, match=r"dt=2026-11-20.*The source has 2026-11-18, 2026-11-19") as caught:
        folder.run()
    assert caught.value.partitions == ["2026-11-18", "2026-11-19"]


def test_many_days_are_not_all_listed(folder: Any) -> None:
    for day in range(1, 11):
        folder.write("a", ["eins"], day=f"2026-10-{day:02}")
    with pytest.raises(NoShards, match=r"2026-10-05 and 5 more, up to 2026-10-10"):
        folder.run()


def test_a_source_that_is_not_there_says_so(folder: Any) -> None:
    with pytest.raises(NoShards, match="no partitions either"):
        folder.run()


def test_usage_of_the_engine_is_what_the_rows_say(folder: Any, scripted: Callable[..., Any]) -> None:
    folder.write("a", ["eins zwei drei"])
    engine = scripted()
    folder.run(engine=engine)
    total = Usage()
    for task in TASKS:
        (row,) = folder.rows(task, "a")
        total += Usage(row["prompt_tokens"], row["cached_tokens"], row["output_tokens"])
    assert total.num_prompt_tokens == sum(len(request.prompt_token_ids) for request in engine.requests)


def test_settings_that_change_the_answers_change_the_hash_in_the_manifest(folder: Any) -> None:
    job: Job = folder.job()
    hashes = {job.settings_hash(name) for name in TASKS}
    assert len(hashes) == 3
    changed = folder.job(system_prompt="Answer in rhymes.")
    assert changed.settings_hash("summaries") != job.settings_hash("summaries")
    tasks = {**folder.job().model_dump()["tasks"]}
    tasks["summaries"]["language"] = "German"
    assert folder.job(tasks=tasks).settings_hash("summaries") != job.settings_hash("summaries")
    assert folder.job(tasks=tasks).settings_hash("translations") == job.settings_hash("translations")
    described = {**folder.job().model_dump()["tasks"]}
    described["summaries"]["description"] = "other words"
    assert folder.job(tasks=described).settings_hash("summaries") == job.settings_hash("summaries")
