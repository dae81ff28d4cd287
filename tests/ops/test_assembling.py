"""Parts to output files: whole or not at all, in row order, and never with answers that are gone or another run's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from docmill.data import storage
from docmill.data.dead_letters import read_dead_letters
from docmill.data.layout import Layout
from docmill.data.ledger import Ledger
from docmill.data.manifest import finish_stamp, read_manifest
from docmill.data.plan import read_plan
from docmill.data.shards import ShardWriter
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import RequestError
from docmill.ops import assembling, partition_job
from docmill.ops.assembling import Overtaken, PartsGone, assemble, remove_stale, reopen
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Report

FINE = {"ledger": {"unit_seconds": 0.1, "lease_seconds": 1}}
TASKS = ["translations", "classifications", "summaries"]


@pytest.fixture
def die_before_assembling(folder: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Ledger, Job]]:
    """Leaves a partition of which every unit is done and nothing is assembled."""

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def run(engine: Any) -> tuple[Ledger, Job]:
        for name in ("a", "b"):
            folder.write(name, [f"Text {number} of {name}." for number in range(40)])
        with monkeypatch.context() as patched:
            patched.setattr(partition_job, "assemble", dies)
            with pytest.raises(KeyboardInterrupt):
                folder.run(engine=engine, **FINE)
        job = folder.job(**FINE)
        layout = Layout(job.output.uri, job.partition("2026-11-20"))
        plan, _ = read_plan(layout.plan)
        assert plan is not None
        assert len(plan.units) > 2
        return Ledger(layout, plan), job

    return run


@pytest.fixture
def done(die_before_assembling: Callable[..., tuple[Ledger, Job]]) -> tuple[Ledger, Job]:
    return die_before_assembling(FakeEngine())


def test_each_shard_has_its_rows_in_order_and_its_figures(folder: Any, done: tuple[Ledger, Job]) -> None:
    ledger, job = done
    assembled = assemble(ledger, job.tasks)
    assert assembled.num_documents == 80
    for task in TASKS:
        assert [file.rows for file in assembled.files[task]] == [40, 40]
        assert assembled.reports[task].counts.ok == 80
        for name in ("a", "b"):
            assert [row["doc_id"] for row in folder.rows(task, name)] == [f"{name}-{n}" for n in range(40)]


def test_it_can_be_done_again_from_the_same_parts(folder: Any, done: tuple[Ledger, Job]) -> None:
    ledger, job = done
    first = assemble(ledger, job.tasks)
    rows = folder.rows("summaries", "a")
    assert assemble(ledger, job.tasks) == first
    assert folder.rows("summaries", "a") == rows


def test_a_missing_mark_or_part_is_told_and_all_like_it_are_opened_again(done: tuple[Ledger, Job]) -> None:
    ledger, job = done
    parts = storage.list_files(ledger.layout.parts_folder(ledger.plan.fingerprint))
    gone = {ledger.plan.units[number].id for number in (0, -1)}
    storage.delete_files([file.uri for file in parts if file.name.split("/")[0] in gone])
    with pytest.raises(PartsGone) as caught:
        assemble(ledger, job.tasks)
    assert set(caught.value.unit_ids) <= gone
    reopen(ledger, caught.value)
    assert {unit.id for unit in ledger.plan.units} - ledger.view().done == gone
    with pytest.raises(PartsGone) as caught:
        assemble(ledger, job.tasks)
    assert set(caught.value.unit_ids) <= gone


def test_dead_letters_of_a_unit_that_are_gone_open_it_again(
    folder: Any, die_before_assembling: Callable[..., tuple[Ledger, Job]], scripted: Callable[..., Any]
) -> None:
    def fail_some(asked: Any) -> RequestError | None:
        return RequestError("rejected", "as scripted") if "Text 3 " in asked.text else None

    ledger, job = die_before_assembling(scripted(fail_some))
    parts = storage.list_files(ledger.layout.all_parts_folder)
    storage.delete_files([file.uri for file in parts if "dead_letters" in file.name][:1])
    with pytest.raises(PartsGone):
        assemble(ledger, job.tasks)
    report = folder.run(engine=scripted(fail_some), **FINE)
    assert report.dead_letters == len(read_dead_letters(ledger.layout.dead_letters)) == 6


def test_a_run_that_was_overtaken_writes_no_further_file(done: tuple[Ledger, Job]) -> None:
    ledger, job = done
    with pytest.raises(Overtaken):
        assemble(ledger, job.tasks, overtaken=lambda: True)
    assert storage.list_shards(ledger.layout.answers_folder("summaries")) == []
    assemble(ledger, job.tasks)
    with pytest.raises(Overtaken):
        remove_stale(ledger.layout, job.name, job.tasks, ledger.plan.shards[:1], overtaken=lambda: True)
    assert len(storage.list_shards(ledger.layout.answers_folder("summaries"))) == 2
    remove_stale(ledger.layout, job.name, job.tasks, ledger.plan.shards[:1])
    assert len(storage.list_shards(ledger.layout.answers_folder("summaries"))) == 1


def test_of_two_runs_with_other_prompts_at_once_the_output_is_that_of_the_last_alone(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finishes while the first has written half of its files; then the first writes all of them again."""
    for name in ("a", "b", "c"):
        folder.write(name, [f"Text {number} of {name}." for number in range(5)])
    other = {"system_prompt": "You answer otherwise."}
    folder.run(engine=FakeEngine(), tasks=["summaries"])
    right = [folder.answers("summaries", name) for name in "abc"]
    folder.run(engine=FakeEngine(), tasks=["summaries"], **other)
    assert [folder.answers("summaries", name) for name in "abc"] != right
    real = partition_job.remove_stale
    between: list[Report] = []

    def remove_stale(*args: Any, **kwargs: Any) -> None:
        if not between:
            between.append(Report.model_construct())
            job = folder.job(**other)
            between[0] = run_partition(
                job,
                job.partition("2026-11-20"),
                tasks=["summaries"],
                engine=FakeEngine(),
                tokenizer=folder.tokenizer,
            )
        real(*args, **kwargs)

    monkeypatch.setattr(partition_job, "remove_stale", remove_stale)
    folder.run(engine=FakeEngine(), tasks=["summaries"])
    assert between[0].documents == 15
    assert [folder.answers("summaries", name) for name in "abc"] == right
    manifest = folder.manifest()
    assert manifest.tasks["summaries"].settings == folder.job().settings_hash("summaries")


def test_a_run_of_an_older_source_does_not_take_away_what_a_newer_one_wrote(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard comes while the first is about to write; the second run finishes with it before the first does."""
    folder.write("a", ["eins"] * 5)
    real = partition_job.remove_stale
    between: list[Report] = []

    def remove_stale(*args: Any, **kwargs: Any) -> None:
        if not between:
            between.append(Report.model_construct())
            folder.write("b", ["zwei"] * 5)
            job = folder.job()
            between[0] = run_partition(
                job, job.partition("2026-11-20"), engine=FakeEngine(), tokenizer=folder.tokenizer
            )
        real(*args, **kwargs)

    monkeypatch.setattr(partition_job, "remove_stale", remove_stale)
    report = folder.run(engine=FakeEngine())
    assert report.documents == 10
    assert [shard.name for shard in folder.files("summaries")] == ["a.parquet", "b.parquet"]


def test_runs_of_different_tasks_at_once_keep_each_others_dead_letters(
    folder: Any, scripted: Callable[..., Any]
) -> None:
    folder.write("a", [f"Text {number}." for number in range(20)])
    job = folder.job(**FINE)
    partition = job.partition("2026-11-20")
    failed: list[BaseException] = []

    def run(task: str) -> None:
        engine = scripted(
            lambda asked: RequestError("rejected", "as scripted") if "Text 3." in asked.text else None
        )
        try:
            run_partition(job, partition, tasks=[task], engine=engine, tokenizer=folder.tokenizer)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in TASKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    layout = Layout(job.output.uri, partition)
    assert [letter.task for letter in read_dead_letters(layout.dead_letters)] == sorted(TASKS)
    manifest = read_manifest(layout.manifest)
    assert manifest is not None
    assert all(finish_stamp(manifest, [task], manifest.tasks[task].plan or "") for task in TASKS)


def test_a_stale_file_that_another_run_removes_first_is_no_error(
    folder: Any, done: tuple[Ledger, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, job = done
    assemble(ledger, job.tasks)
    found = storage.list_shards

    def listed_then_removed(uri: str) -> Any:
        shards = found(uri)
        storage.delete(shards[-1].uri)
        return shards

    monkeypatch.setattr(storage, "list_shards", listed_then_removed)
    remove_stale(ledger.layout, job.name, job.tasks, [ledger.plan.shards[0]])
    monkeypatch.undo()
    assert {file.name for file in folder.files("summaries")} == {"a.parquet"}


@pytest.mark.parametrize(("num_rows", "at_once"), [(6, 1), (5, 2), (2, 4)])
def test_large_files_are_written_one_after_the_other(
    folder: Any, monkeypatch: pytest.MonkeyPatch, num_rows: int, at_once: int
) -> None:
    """Each holds a row group in memory; small ones only wait for the store, and do it together."""
    lock, under_way, most = threading.Lock(), 0, 0

    class SlowWriter(ShardWriter):
        def __init__(self, *args: Any, **options: Any) -> None:
            nonlocal under_way, most
            super().__init__(*args, **options)
            with lock:
                under_way += 1
                most = max(most, under_way)

        def commit(self) -> None:
            nonlocal under_way
            time.sleep(0.1)
            super().commit()
            with lock:
                under_way -= 1

    monkeypatch.setattr(assembling, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(assembling, "ShardWriter", SlowWriter)
    for number in range(7):
        folder.write(f"shard-{number}", [f"Text {number} {row}" for row in range(num_rows)])
    folder.run(tasks=["translations"])
    assert most == at_once
