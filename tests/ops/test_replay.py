"""Replay: what failed is asked again, all else stays byte for byte, and a replay that dies is simply replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from docmill.data import storage
from docmill.data.dead_letters import read_dead_letters
from docmill.data.layout import Layout
from docmill.engine.types import RequestError
from docmill.ops import replay as replay_module
from docmill.ops.errors import NothingToReplay
from docmill.ops.replay import Replayed, replay
from docmill.ops.report import Report

TASKS = ["translations", "classifications", "summaries"]


def scripted_failures(scripted: Callable[..., Any]) -> Any:
    """Rows 3 and 13 kill the engine, and row 7 is rejected in the summaries alone."""

    def answer(asked: Any) -> RequestError | None:
        if asked.text.startswith("Row 3 ") or asked.text.startswith("Row 13 "):
            return RequestError("killed_engine", "it died twice")
        if asked.text.startswith("Row 7 ") and "ummar" in asked.instruction:
            return RequestError("rejected", "as scripted")
        return None

    return scripted(answer)


@pytest.fixture
def failed(folder: Any, scripted: Callable[..., Any]) -> Any:
    """A finished run with thirteen dead letters in two shards."""
    for name in ("a", "b"):
        folder.write(name, [f"Row {number} of {name}." for number in range(20)])
    report = folder.run(engine=scripted_failures(scripted))
    assert report.dead_letters == 14
    return folder


def letters(folder: Any) -> list[Any]:
    return read_dead_letters(layout(folder).dead_letters)


def layout(folder: Any) -> Layout:
    return Layout(f"{folder.uri}/answers", folder.job().partition("2026-11-20"))


def stored_report(folder: Any) -> Report:
    return Report.model_validate_json(storage.read_bytes(layout(folder).report))


def again(folder: Any, engine: Any, **options: Any) -> Replayed:
    job = folder.job()
    return replay(job, job.partition("2026-11-20"), engine=engine, tokenizer=folder.tokenizer, **options)


def test_a_dead_letter_says_what_was_asked_and_why_it_failed(failed: Any) -> None:
    first = letters(failed)[0]
    assert (first.shard, first.row, first.doc_id, first.task) == ("a.parquet", 3, "a-3", "classifications")
    assert (first.reason, first.message, first.attempts) == ("killed_engine", "it died twice", 1)
    assert "Row 3 of a." in failed.tokenizer.decode(first.prompt_token_ids)
    assert json.loads(first.sampling)["max_tokens"] > 0
    (row,) = [row for row in failed.rows("classifications", "a") if row["doc_id"] == "a-3"]
    assert (row["status"], row["error"]) == ("failed", "killed_engine: it died twice")
    assert row["request_key"] == first.request_key


def test_all_are_asked_again_and_the_output_is_as_if_nothing_had_failed(
    failed: Any, scripted: Callable[..., Any]
) -> None:
    engine = scripted()
    assert again(failed, engine) == Replayed(14, 14, 0)
    assert len(engine.requests) == 14
    mended = {(task, name): failed.answers(task, name) for task in TASKS for name in "ab"}
    report = stored_report(failed)
    assert letters(failed) == []
    failed.run(engine=scripted())
    assert {(task, name): failed.answers(task, name) for task in TASKS for name in "ab"} == mended
    for name, task in stored_report(failed).tasks.items():
        assert report.tasks[name].counts == task.counts
        assert report.tasks[name].errors == task.errors == {}
    with pytest.raises(NothingToReplay, match="no dead letters"):
        again(failed, engine)


def test_those_of_one_reason_alone_leave_all_other_rows_and_files_as_they_were(
    failed: Any, scripted: Callable[..., Any]
) -> None:
    before = {(task, name): failed.rows(task, name) for task in TASKS for name in "ab"}
    bytes_before = {
        shard.uri: storage.read_bytes(shard.uri) for task in TASKS[:2] for shard in failed.files(task)
    }
    engine = scripted()
    assert again(failed, engine, reason="rejected") == Replayed(2, 2, 12)
    assert {asked.text for asked in engine.asked} == {"Row 7 of a.", "Row 7 of b."}
    assert {uri: storage.read_bytes(uri) for uri in bytes_before} == bytes_before
    for name in "ab":
        rows = failed.rows("summaries", name)
        changed = [
            row["doc_id"] for row, old in zip(rows, before["summaries", name], strict=True) if row != old
        ]
        assert changed == [f"{name}-7"]
        assert rows[7]["status"] == "ok"
    assert {letter.reason for letter in letters(failed)} == {"killed_engine"}
    report = stored_report(failed)
    assert report.tasks["summaries"].errors == {"killed_engine": 4}
    assert report.tasks["summaries"].counts.balanced
    assert report.dead_letters == 12


def test_what_fails_again_stays_a_dead_letter(failed: Any, scripted: Callable[..., Any]) -> None:
    engine = scripted_failures(scripted)
    assert again(failed, engine) == Replayed(14, 0, 14)
    assert len(letters(failed)) == 14
    report = stored_report(failed)
    assert report.tasks["summaries"].errors == {"killed_engine": 4, "rejected": 2}
    assert report.tasks["summaries"].counts.failed == 6


@pytest.mark.parametrize("fatal", [1, 2, 3, 6, 7])
def test_a_replay_that_dies_between_two_writes_is_simply_replayed(
    failed: Any, scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    num_writes = 0

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal num_writes
            num_writes += 1
            if num_writes > fatal:
                raise KeyboardInterrupt
            return write(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(replay_module, "_mend_file", dying(replay_module._mend_file))
        patched.setattr(replay_module, "change_dead_letters", dying(replay_module.change_dead_letters))
        patched.setattr(storage, "put_bytes", dying(storage.put_bytes))
        with pytest.raises(KeyboardInterrupt):
            again(failed, scripted())
    assert again(failed, scripted()).num_left == 0
    report = stored_report(failed)
    for name in TASKS:
        assert (report.tasks[name].counts.ok, report.tasks[name].counts.failed) == (40, 0)
        assert report.tasks[name].errors == {}
        assert {row["status"] for shard in "ab" for row in failed.rows(name, shard)} == {"ok"}
    assert letters(failed) == []


def test_a_shard_that_has_changed_since_is_not_mended_with_answers_about_another_text(
    failed: Any, scripted: Callable[..., Any]
) -> None:
    failed.write("a", [f"Another row {number}." for number in range(20)])
    before = failed.rows("summaries", "a")
    with pytest.raises(NothingToReplay, match=r"shard a\.parquet has changed since it was run"):
        again(failed, scripted())
    assert failed.rows("summaries", "a") == before


def test_a_shard_that_has_left_the_source_is_said(failed: Any, scripted: Callable[..., Any]) -> None:
    failed.remove("b")
    with pytest.raises(NothingToReplay, match=r"b\.parquet has left the source"):
        again(failed, scripted())


def test_a_run_that_finishes_meanwhile_is_not_overwritten(failed: Any, scripted: Callable[..., Any]) -> None:
    def meanwhile(_: Any) -> None:
        if not ran:
            ran.append(True)
            failed.run(engine=scripted())

    ran: list[bool] = []
    with pytest.raises(NothingToReplay, match="run again meanwhile"):
        again(failed, scripted(lambda asked: meanwhile(asked)))
    assert letters(failed) == []


def test_nothing_to_replay_says_what_there_is(failed: Any, scripted: Callable[..., Any]) -> None:
    with pytest.raises(NothingToReplay, match=r"reason 'hung' \(there are: killed_engine, rejected\)"):
        again(failed, scripted(), reason="hung")


def test_a_partition_that_was_never_finished_has_nothing_to_replay(
    folder: Any, scripted: Callable[..., Any]
) -> None:
    with pytest.raises(NothingToReplay, match="never finished"):
        again(folder, scripted())


def test_two_replays_at_once_lose_nothing_of_each_other(
    failed: Any, scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins and ends between the first one's reading and writing of a file."""
    replace, others = storage.replace_bytes, 0

    def replaced_by_another(uri: str, content: bytes, *, version: str | None) -> bool:
        nonlocal others
        if not others and "/summaries/" in uri:
            others += 1
            assert again(failed, scripted(), reason="killed_engine").num_repaired == 12
        return replace(uri, content, version=version)

    monkeypatch.setattr(storage, "replace_bytes", replaced_by_another)
    again(failed, scripted(), reason="rejected")
    assert others == 1
    assert letters(failed) == []
    for task in TASKS:
        for name in "ab":
            assert {row["status"] for row in failed.rows(task, name)} == {"ok"}
    assert stored_report(failed).dead_letters == 0
