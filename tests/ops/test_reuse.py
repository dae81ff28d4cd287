"""Equal texts are paid for once: inside a partition, and from night to night."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from counting_engine import CountingEngine

from docmill.data import storage
from docmill.data.errors import StorageUnreachable
from docmill.data.layout import Layout
from docmill.data.plan import read_plan
from docmill.engine.errors import EngineDied
from docmill.engine.types import Request, RequestError
from docmill.ops import partition_job, reuse

TASKS = ["translations", "classifications", "summaries"]
DAYS = [f"2026-11-{day}" for day in range(20, 30)]
FINE = {"ledger": {"unit_seconds": 0.1, "segment_seconds": 0.001, "segment_answers": 1, "lease_seconds": 1}}


def texts(start: int, stop: int) -> list[str]:
    return [
        f"Text {number}. It is about something else than number {number + 1}."
        for number in range(start, stop)
    ]


def run(folder: Any, day: str = DAYS[0], **changes: Any) -> tuple[int, Any]:
    """How many requests the engine had, and the report."""
    engine = CountingEngine()
    folder.settings = {"reuse": {}} | folder.settings | changes
    report = folder.run(engine=engine, day=day)
    return len(engine.requests), report


def same_but_for_cost(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    """All columns but the time and what was spared."""
    return [{**row, "cached_tokens": 0} for row in left] == [{**row, "cached_tokens": 0} for row in right]


def kept_files(folder: Any) -> list[str]:
    layout = Layout(f"{folder.uri}/answers", folder.job().partition(DAYS[0]))
    return [file.name for file in storage.list_files(layout.kept_answers_folder)]


def test_equal_documents_of_a_partition_are_asked_once_and_each_has_its_rows(folder: Any) -> None:
    folder.write("a", ["One text.", "Another text.", "One text."])
    folder.write("b", ["One text.", "A third."])
    asked, report = run(folder)
    assert asked == 3 * 3
    assert report.documents == 5
    for task in TASKS:
        (one, other, again), (elsewhere, third) = folder.answers(task, "a"), folder.answers(task, "b")
        assert [row["doc_id"] for row in (one, other, again, elsewhere, third)] == [
            "a-0",
            "a-1",
            "a-2",
            "b-0",
            "b-1",
        ]
        columns = set(one) - {"doc_id", "cached_tokens"}
        assert all(row[name] == one[name] for row in (again, elsewhere) for name in columns)
        assert one["request_key"] not in (other["request_key"], third["request_key"])
        assert again["cached_tokens"] == again["prompt_tokens"] > 0
        assert (report.tasks[task].requests, report.tasks[task].duplicate_requests) == (5, 2)


def test_duplicates_are_asked_each_for_itself_where_answers_are_drawn_at_random(folder: Any) -> None:
    folder.write("a", ["One text."] * 4)
    tasks = {"translations": {"kind": "translate", "temperature": 0.7}}
    assert run(folder, tasks=tasks)[0] == 4
    assert run(folder, tasks=tasks)[0] == 4


def test_a_duplicate_of_a_request_that_fails_fails_with_it(folder: Any) -> None:
    folder.write("a", ["Good.", "Bad.", "Bad.", "Good."])

    def fails(request: Request) -> RequestError | None:
        bad = folder.tokenizer.encode_data(["Bad."])[0]
        ids = list(request.prompt_token_ids)
        found = any(ids[at : at + len(bad)] == list(bad) for at in range(len(ids)))
        return RequestError("killed_engine", "it was alone") if found else None

    engine = CountingEngine(fail=fails)
    report = folder.run(engine=engine)
    assert len(engine.requests) == 2 * 3
    assert report.dead_letters == 2 * 3
    for task in TASKS:
        assert [row["status"] for row in folder.rows(task, "a")] == ["ok", "failed", "failed", "ok"]


def test_the_next_night_asks_only_about_what_has_changed(folder: Any) -> None:
    folder.write("a", texts(0, 40))
    folder.write("b", texts(40, 60))
    assert run(folder)[0] == 60 * 3
    # Five texts changed, ten came, and they lie in other shards and another order.
    tonight = [*reversed(texts(5, 60)), *texts(100, 115)]
    folder.write("x", tonight[:33], day=DAYS[1])
    folder.write("y", tonight[33:], day=DAYS[1])
    asked, report = run(folder, DAYS[1])
    assert asked == 15 * 3
    assert [task.reused_requests for task in report.tasks.values()] == [55] * 3
    assert report.computed_tokens.prompt < report.tokens.prompt / 3
    for task in TASKS:
        before = {row["request_key"]: row for name in ("a", "b") for row in folder.answers(task, name)}
        now = {
            row["request_key"]: row for name in ("x", "y") for row in folder.answers(task, name, day=DAYS[1])
        }
        assert len(before.keys() & now.keys()) == 55
        assert len(now) == 70
        unchanged = sorted(before.keys() & now.keys())
        assert same_but_for_cost(
            [{**before[key], "doc_id": ""} for key in unchanged],
            [{**now[key], "doc_id": ""} for key in unchanged],
        )


def test_a_partition_that_is_run_again_is_reused_and_replaced(folder: Any) -> None:
    folder.write("a", texts(0, 20))
    run(folder)
    before = {task: folder.answers(task, "a") for task in TASKS}
    asked, report = run(folder)
    assert (asked, report.documents) == (0, 20)
    assert all(same_but_for_cost(folder.answers(task, "a"), before[task]) for task in TASKS)
    folder.write("late", texts(20, 23))
    assert run(folder)[0] == 3 * 3


def test_it_lasts_over_nights_on_which_nothing_was_asked(folder: Any) -> None:
    for day in DAYS[:7]:
        folder.write("a", texts(0, 10), day=day)
        asked, _ = run(folder, day)
        assert asked == (30 if day == DAYS[0] else 0)
        assert len(kept_files(folder)) == min(4, DAYS.index(day) + 1), "the oldest go"


@pytest.mark.parametrize(
    "changes",
    [
        {"system_prompt": "Another one."},
        {"engine": {"kind": "fake", "seed": 5}},
        {"reuse": {"runs": 0}},
    ],
)
def test_under_other_settings_nothing_is_reused(folder: Any, changes: dict[str, Any]) -> None:
    folder.write("a", texts(0, 10))
    run(folder)
    asked, report = run(folder, **changes)
    assert asked == 30
    assert [task.reused_requests for task in report.tasks.values()] == [0, 0, 0]


def test_a_task_with_another_prompt_is_asked_and_the_others_are_not(folder: Any) -> None:
    folder.write("a", texts(0, 10))
    run(folder)
    tasks = {name: task.model_dump() for name, task in folder.job().tasks.items()}
    tasks["summaries"]["instruction"] = "Summarise it in five words."
    folder.settings = {"tasks": tasks}
    asked, report = run(folder)
    assert asked == 10
    assert {name: task.reused_requests for name, task in report.tasks.items()} == {
        "translations": 10, "classifications": 10, "summaries": 0,
    }  # fmt: skip


def test_failures_are_asked_again_the_next_night(folder: Any) -> None:
    folder.write("a", texts(0, 10))
    folder.run(engine=CountingEngine(fail=lambda request: RequestError("engine_error", "a bad night")))
    asked, report = run(folder)
    assert asked == 30
    assert report.dead_letters == 0


def test_chunked_documents_of_several_rounds_are_reused_whole(folder: Any) -> None:
    folder.settings = {"chunking": {"max_tokens": 16}}
    folder.write("a", [" ".join(texts(0, 12)), "short"])
    asked, report = run(folder)
    twice = sum(task.duplicate_requests for task in report.tasks.values())
    assert asked + twice == report.requests > 20
    again, report = run(folder)
    assert again == 0
    assert sum(task.reused_requests for task in report.tasks.values()) == report.requests


def test_a_run_that_dies_goes_on_with_what_it_had_found_and_what_it_had_asked(folder: Any) -> None:
    folder.write("a", texts(0, 30))
    run(folder, **FINE)
    folder.write("a", texts(20, 60), day=DAYS[1])
    dying = CountingEngine(dies_after=40)
    with pytest.raises(EngineDied):
        folder.run(engine=dying, day=DAYS[1], **FINE)
    engine = CountingEngine()
    report = folder.run(engine=engine, day=DAYS[1], **FINE)
    assert 0 < len(engine.requests) < 90 <= len(dying.requests) + len(engine.requests)
    assert [task.reused_requests for task in report.tasks.values()] == [10] * 3


def test_a_run_that_dies_before_its_requests_are_kept_keeps_them_when_it_goes_on(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", texts(0, 10))

    def dying(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(partition_job.reuse, "keep", dying)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert kept_files(folder) == []
    assert run(folder)[0] == 0
    assert len(kept_files(folder)) == 1


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_kept_file_with_a_damaged_byte_costs_at_most_its_answers(folder: Any, at: float) -> None:
    folder.write("a", texts(0, 200))
    run(folder)
    before = {task: folder.answers(task, "a") for task in TASKS}
    (name,) = kept_files(folder)
    path = Path(f"{folder.uri}/answers/_docmill/answers/{name}")
    content = bytearray(path.read_bytes())
    place = int(at * len(content))
    content[place : place + 8] = bytes(byte ^ 0xFF for byte in content[place : place + 8])
    path.write_bytes(content)
    run(folder)
    assert all(same_but_for_cost(folder.answers(task, "a"), before[task]) for task in TASKS)


def test_a_mark_that_a_power_cut_has_torn_is_made_anew(folder: Any) -> None:
    folder.write("a", texts(0, 30))
    run(folder, **FINE)
    folder.write("a", texts(10, 40), day=DAYS[1])
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=5), day=DAYS[1], **FINE)
    (mark,) = Path(f"{folder.uri}/answers/_docmill/dt={DAYS[1]}/reused").rglob("found.json")
    mark.write_bytes(b"")
    asked, report = run(folder, DAYS[1])
    assert asked <= 30
    assert [task.reused_requests for task in report.tasks.values()] == [20] * 3


def test_a_text_that_most_rows_share_is_kept_once_a_unit(folder: Any) -> None:
    folder.write("a", ["N/A"] * 3000 + texts(0, 20))
    assert run(folder, **FINE)[0] == 21 * 3
    (name,) = kept_files(folder)
    kept = pq.read_metadata(f"{folder.uri}/answers/_docmill/answers/{name}").num_rows
    units = read_plan(f"{folder.uri}/answers/_docmill/dt={DAYS[0]}/plan.parquet")[0]
    assert units is not None
    assert kept <= 3 * (20 + len(units.units))
    asked, report = run(folder, **FINE)
    assert (asked, report.documents) == (0, 3020)


def test_what_is_computed_again_is_forgotten_where_the_job_says_so(folder: Any) -> None:
    folder.write("a", texts(0, 10))
    run(folder)
    assert run(folder, reuse={"runs": 0})[0] == 30
    assert kept_files(folder) == []
    assert run(folder, reuse={})[0] == 30


def test_duplicates_of_a_run_that_died_are_still_told_from_what_was_computed(folder: Any) -> None:
    folder.write("a", ["One text.", "Another.", "One text."] * 10)
    one_unit = {"ledger": {**FINE["ledger"], "unit_seconds": 600}}
    dying = CountingEngine(dies_after=5)
    with pytest.raises(EngineDied):
        folder.run(engine=dying, **one_unit)
    asked, report = run(folder, **one_unit)
    assert (len(dying.requests), asked) == (6, 1)
    assert [task.duplicate_requests for task in report.tasks.values()] == [28] * 3
    for task in TASKS:
        rows = folder.answers(task, "a")
        assert sum(row["cached_tokens"] < row["prompt_tokens"] for row in rows) == 2


def test_files_that_are_none_cost_a_warning_and_nothing_else(
    folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("a", texts(0, 10))
    run(folder)
    kept = f"{folder.uri}/answers/_docmill/answers"
    (name,) = kept_files(folder)
    with open(f"{kept}/{name}", "r+b") as stream:
        stream.truncate(os.path.getsize(stream.name) // 2)
    storage.put_bytes(f"{kept}/notes.txt", b"mine")
    asked, report = run(folder)
    assert (asked, report.documents) == (30, 10)
    assert ["is left out" in record.message for record in caplog.records] == [True]
    assert "notes.txt" in kept_files(folder)


def test_a_store_that_takes_nothing_more_does_not_fail_a_finished_run(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", texts(0, 10))

    def full(*_: Any, **__: Any) -> None:
        raise StorageUnreachable("memory://x", "full")

    monkeypatch.setattr(reuse, "_keep", full)
    assert run(folder)[1].documents == 10
    assert kept_files(folder) == []


def test_readers_of_the_output_do_not_see_what_is_kept(folder: Any) -> None:
    folder.write("a", texts(0, 3))
    run(folder)
    assert all(not shard.name.startswith("_") for task in TASKS for shard in folder.files(task))
    assert all(name.endswith(".parquet") for name in kept_files(folder))
