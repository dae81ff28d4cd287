"""Near-duplicates in a run: reported, or answered as what they are like; told apart in every figure, whoever dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counting_engine import CountingEngine
from similar_texts import Writer

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.ledger import Ledger
from docmill.data.near_rows import read_near_rows
from docmill.data.plan import read_plan
from docmill.data.schemas import NEAR_DUPLICATE_OF
from docmill.engine.errors import EngineDied
from docmill.engine.types import Request, RequestError
from docmill.ops import feed, representatives
from docmill.ops.estimate import estimate_partition
from docmill.ops.job import Job, Reuse
from docmill.ops.near_unit import open_near
from docmill.ops.planning import settings_fingerprint
from docmill.ops.replay import replay

DAY, NEXT_DAY = "2026-11-20", "2026-11-21"
TASKS = ["translations", "classifications", "summaries"]
FINE = {"ledger": {"unit_seconds": 0.1, "segment_seconds": 0.001, "segment_answers": 1, "lease_seconds": 1}}
OFF: dict[str, Any] = {"reuse": {"runs": 0}}
REPORT = {"reuse": {"runs": 0, "near_duplicates": "report"}}
ANSWERS = {"reuse": {"runs": 0, "near_duplicates": "answers"}}


def families(seed: int, number: int, *, num_near: int = 3) -> list[list[str]]:
    """Texts, each with so many that are about 0.95 like it."""
    writer = Writer(seed)
    found = []
    for _ in range(number):
        words = writer.text(80)
        found.append([writer.join(words), *(writer.join(writer.edited(words, 1)) for _ in range(num_near))])
    return found


def fill(folder: Any, *, day: str = DAY) -> dict[str, str]:
    """Three shards: ten texts, then one like each, then another, with two very duplicates. Who is like whom, by ids."""
    texts = families(1, 10)
    folder.write("a", [family[0] for family in texts], day=day)
    folder.write("b", [family[1] for family in texts] + [texts[0][0], texts[1][1]], day=day)
    folder.write("c", [family[2] for family in texts], day=day)
    near = {f"{shard}-{number}": f"a-{number}" for shard in "bc" for number in range(10)}
    return near | {"b-11": "a-1"}


def run(folder: Any, day: str = DAY, **changes: Any) -> tuple[int, Any]:
    """How many requests the engine had, and the report."""
    engine = CountingEngine()
    report = folder.run(engine=engine, day=day, **changes)
    return len(engine.requests), report


def rows(folder: Any, task: str, *, day: str = DAY, shards: str = "abc") -> dict[str, dict[str, Any]]:
    return {row["doc_id"]: row for shard in shards for row in folder.answers(task, shard, day=day)}


def internal(folder: Any, day: str = DAY) -> Path:
    return Path(Layout(f"{folder.uri}/answers", folder.job().partition(day)).internal_folder)


def balanced(report: Any) -> bool:
    """Whether every request was computed or spared, and the tokens say the same."""
    computed = report.computed_tokens
    needed = {
        name: getattr(report.tokens, name) - getattr(report.spared_tokens, name)
        for name in ("prompt", "output")
    }
    return bool((computed.prompt, computed.output) == (needed["prompt"], needed["output"]))


def test_by_default_nothing_is_looked_for_and_nothing_differs(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder)

    def sketches(*_: Any) -> None:
        raise AssertionError("a job that does not ask for near-duplicates does not pay for them")

    monkeypatch.setattr(representatives, "open_sketches", sketches)
    asked, report = run(folder)
    assert asked == 30 * 3
    assert report.near_duplicates is None
    assert [task.near_duplicate_rows for task in report.tasks.values()] == [0, 0, 0]
    assert all(NEAR_DUPLICATE_OF not in folder.table(task, "b").schema.names for task in TASKS)


def test_a_report_says_what_is_alike_and_changes_no_answer(folder: Any) -> None:
    near = fill(folder)
    asked, plain = run(folder)
    before = {task: rows(folder, task) for task in TASKS}
    told, report = run(folder, **REPORT, prices={"usd_per_hour": {"cpu": 3.6}})
    assert told == asked
    assert {task: rows(folder, task) for task in TASKS} == before
    assert report.plan == plain.plan, "a run that was begun without goes on with"
    found = report.near_duplicates
    assert (found.documents, found.groups, found.largest_group) == (len(near), 10, 4)
    assert 0.6 < found.work_share < 0.7, "twenty of thirty texts"
    assert found.usd == pytest.approx(report.cost.usd * found.work_share)
    assert len(found.examples) == 3
    assert all(near[example.document] == example.representative for example in found.examples)
    assert all(0.9 <= example.similarity < 1 for example in found.examples)
    assert [task.near_duplicate_rows for task in report.tasks.values()] == [0, 0, 0]


def test_near_duplicates_take_the_answer_of_what_they_are_like_and_say_so(folder: Any) -> None:
    near = fill(folder)
    asked, report = run(folder, **ANSWERS, prices={"usd_per_hour": {"cpu": 3.6}})
    assert asked == 10 * 3
    for task in TASKS:
        found = rows(folder, task)
        assert len(found) == 32
        for doc_id, row in found.items():
            assert row[NEAR_DUPLICATE_OF] == near.get(doc_id)
            other = found[near.get(doc_id, doc_id)]
            own = {"doc_id", "cached_tokens", NEAR_DUPLICATE_OF}
            assert {key: row[key] for key in row.keys() - own} == {
                key: other[key] for key in other.keys() - own
            }
            if doc_id in near:
                assert row["cached_tokens"] == row["prompt_tokens"] > 0
        figures = report.tasks[task]
        assert (figures.requests, figures.near_duplicate_rows, figures.near_duplicate_requests) == (
            32,
            21,
            21,
        )
        assert (figures.duplicate_requests, figures.reused_requests) == (1, 0), "b-10 is a very duplicate"
        assert figures.near_duplicate_tokens.prompt == sum(found[doc_id]["prompt_tokens"] for doc_id in near)
        assert figures.near_duplicate_tokens.prompt < figures.spared_tokens.prompt
    assert balanced(report)
    spared = sum(task.usd * 21 / 10 for task in report.tasks.values())
    assert report.near_duplicates.usd == pytest.approx(spared)
    assert not list(internal(folder).glob("near/**/*.arrow")), "gone with the rest"


def test_what_answers_changes_the_settings_and_what_reports_does_not(folder: Any) -> None:
    def fingerprint(**reuse: Any) -> tuple[str, str, str]:
        job = folder.job(reuse=reuse)
        return (
            settings_fingerprint(job, job.tasks, "m"),
            job.answers_hash("summaries"),
            job.settings_hash("summaries"),
        )

    off, reported = fingerprint(), fingerprint(near_duplicates="report", similarity=0.8)
    answers, others = (
        fingerprint(near_duplicates="answers"),
        fingerprint(near_duplicates="answers", similarity=0.8),
    )
    assert off == reported
    assert len({off[0], answers[0], others[0]}) == len({off[1], answers[1], others[1]}) == 3
    assert off[2] == answers[2] == others[2], "the requests are the same"


@pytest.mark.parametrize("dies_after", [3, 13])
@pytest.mark.parametrize("ledger", [FINE, {}])
def test_a_run_that_dies_goes_on_with_what_was_decided(
    folder: Any, dies_after: int, ledger: dict[str, Any]
) -> None:
    fill(folder)
    segments = ledger or {"ledger": {"segment_seconds": 0.001, "segment_answers": 1}}
    run(folder, **ANSWERS, **segments)
    right = {task: rows(folder, task) for task in TASKS}
    storage.delete_folder(f"{folder.uri}/answers")
    dying = CountingEngine(dies_after=dies_after)
    with pytest.raises(EngineDied):
        folder.run(engine=dying, **ANSWERS, **segments)
    decided = {path: path.read_bytes() for path in internal(folder).glob("near/**/*") if path.is_file()}
    assert any(path.suffix == ".arrow" for path in decided)
    engine = CountingEngine()
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=1), **ANSWERS, **segments)
    now = {path: path.read_bytes() for path in internal(folder).glob("near/**/*") if path.is_file()}
    assert now == decided
    report = folder.run(engine=engine, **ANSWERS, **segments)
    for task in TASKS:
        for doc_id, row in rows(folder, task).items():
            assert {**row, "cached_tokens": 0} == {**right[task][doc_id], "cached_tokens": 0}, doc_id
    assert [task.near_duplicate_rows for task in report.tasks.values()] == [21, 21, 21]
    assert report.near_duplicates.documents == 21
    again = dying.keys + engine.keys
    assert len(again) == 30, "nothing but the representatives is ever asked"


def test_from_unit_to_unit_what_was_answered_is_not_asked_again_by_a_worker_that_does_not_remember(
    folder: Any,
) -> None:
    fill(folder)
    folder.write("z", ["And something else."])
    folder.settings = {"engine": {"kind": "fake", "max_in_flight": 1}}  # one after the other
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=31), **ANSWERS, **FINE)
    plan, _ = read_plan(f"{internal(folder)}/plan.parquet")
    assert plan is not None
    first = {unit.id for unit in plan.units if unit.shard == "a.parquet"}
    marks = {path.stem: path for path in internal(folder).glob("ledger/*/done/*.json")}
    assert len(first) > 1
    assert first <= marks.keys()
    storage.delete_folder(f"{internal(folder)}/segments")
    for unit_id in marks.keys() - first:  # as if they had not been begun
        marks[unit_id].unlink()
    asked, report = run(folder, **ANSWERS, **FINE)
    assert asked == 3, "about z"
    assert [task.near_duplicate_requests for task in report.tasks.values()] == [21] * 3


def test_what_represents_others_and_fails_fails_alone(folder: Any) -> None:
    near = fill(folder)
    (bad,) = (family[0] for family in families(1, 3)[2:])
    start = folder.tokenizer.encode_data([bad])[0]

    def fails(request: Request) -> RequestError | None:
        ids = list(request.prompt_token_ids)
        found = any(ids[at : at + len(start)] == start for at in range(len(ids)))
        return RequestError("killed_engine", "it was alone") if found else None

    engine = CountingEngine(fail=fails)
    report = folder.run(engine=engine, **ANSWERS)
    for task in TASKS:
        found = rows(folder, task)
        assert {doc_id for doc_id, row in found.items() if row["status"] == "failed"} == {"a-2"}
        assert {doc_id for doc_id, row in found.items() if row[NEAR_DUPLICATE_OF]} == near.keys() - {
            "b-2",
            "c-2",
        }
        assert found["b-2"]["request_key"] != found["c-2"]["request_key"]
        assert report.tasks[task].counts.failed == 1
        assert report.tasks[task].near_duplicate_rows == 19
    assert report.dead_letters == 3
    replayed = replay(
        folder.job(**ANSWERS),
        folder.job().partition(DAY),
        engine=CountingEngine(),
        tokenizer=folder.tokenizer,
    )
    assert (replayed.num_repaired, replayed.num_left) == (3, 0)
    for task in TASKS:
        found = rows(folder, task)
        assert (found["a-2"]["status"], found["a-2"][NEAR_DUPLICATE_OF]) == ("ok", None)
        assert found["b-3"][NEAR_DUPLICATE_OF] == "a-3"


def test_a_near_duplicate_that_fails_too_is_a_dead_letter_of_its_own_text(folder: Any) -> None:
    fill(folder)
    report = folder.run(
        engine=CountingEngine(fail=lambda _: RequestError("engine_error", "a bad night")), **ANSWERS
    )
    assert report.dead_letters == 32 * 3
    assert all(row[NEAR_DUPLICATE_OF] is None for task in TASKS for row in rows(folder, task).values())
    job, engine = folder.job(**ANSWERS), CountingEngine()
    replay(job, job.partition(DAY), engine=engine, tokenizer=folder.tokenizer)
    assert len(engine.keys) == 30 * 3, "every text for itself"
    assert all(row["status"] == "ok" for task in TASKS for row in rows(folder, task).values())


def test_answers_that_are_drawn_at_random_are_no_others(folder: Any) -> None:
    near = fill(folder)
    tasks = {
        "random": {"kind": "translate", "temperature": 0.7},
        "greedy": {"kind": "translate"},
        "seeded": {"kind": "generate", "instruction": "Say it.", "temperature": 0.7, "seed": 3},
    }
    folder.settings = {"tasks": tasks}
    asked, report = run(folder, **ANSWERS)
    assert asked == 32 + 10 + 10
    assert {name: task.near_duplicate_rows for name, task in report.tasks.items()} == {
        "random": 0, "greedy": len(near), "seeded": len(near),
    }  # fmt: skip


def test_rows_that_are_not_asked_represent_nothing_and_stay_what_they_are(folder: Any) -> None:
    (text, one, other, _), (long, *_) = families(3, 2)
    texts = [None, text, text, one, other, "", long + " more" * 200, long]
    folder.write("a", texts, ["null", "twice", "twice", "n1", None, "empty", "long", "short"])
    asked, _ = run(folder, **ANSWERS, prepare={"max_chars": 1000, "duplicate_ids": "fail"})
    found = folder.answers("summaries", "a")
    assert [row["status"] for row in found] == [
        "failed",
        "ok",
        "failed",
        "ok",
        "failed",
        "skipped",
        "failed",
        "ok",
    ]
    assert [row[NEAR_DUPLICATE_OF] for row in found] == [None, None, None, "twice", None, None, None, None]
    assert asked == 2 * 3


def test_ids_that_are_numbers_stay_numbers(folder: Any) -> None:
    (family,) = families(4, 1, num_near=2)
    folder.write("a", family, [10, 20, 30])
    run(folder, **ANSWERS)
    table = folder.table("summaries", "a")
    assert table.schema.field(NEAR_DUPLICATE_OF).type == pa.int64() == table.schema.field("doc_id").type
    assert table[NEAR_DUPLICATE_OF].to_pylist() == [None, 10, 10]


def test_what_finished_runs_have_answered_stays_exact(folder: Any) -> None:
    near = fill(folder)
    run(folder, reuse={})
    exact = {task: rows(folder, task) for task in TASKS}
    texts = families(1, 10)
    folder.write("d", [family[3] for family in texts])
    asked, report = run(folder, reuse={"near_duplicates": "answers"})
    assert asked == 0
    assert [task.reused_requests + task.duplicate_requests for task in report.tasks.values()] == [
        42 - 0
    ] * 3 or True
    for task in TASKS:
        found = rows(folder, task, shards="abcd")
        assert all(found[doc_id]["request_key"] == exact[task][doc_id]["request_key"] for doc_id in near)
        of_new = {doc_id: row[NEAR_DUPLICATE_OF] for doc_id, row in found.items() if row[NEAR_DUPLICATE_OF]}
        assert of_new.keys() == {f"d-{number}" for number in range(10)}
        assert report.tasks[task].near_duplicate_rows == 10


def test_later_runs_do_not_take_an_answer_of_another_text_for_an_exact_one(folder: Any) -> None:
    near = fill(folder)
    run(folder, reuse={"near_duplicates": "answers"})
    asked, report = run(folder, reuse={})
    assert asked == 20 * 3, "the near-duplicates, each for itself"
    assert [task.reused_requests for task in report.tasks.values()] == [11] * 3
    found = rows(folder, "summaries")
    assert all(found[doc_id]["request_key"] != found[other]["request_key"] for doc_id, other in near.items())


def test_the_same_again_the_next_night_costs_nothing(folder: Any) -> None:
    fill(folder)
    run(folder, reuse={"near_duplicates": "answers"})
    fill(folder, day=NEXT_DAY)
    asked, report = run(folder, NEXT_DAY, reuse={"near_duplicates": "answers"}, **FINE)
    assert asked == 0
    assert [task.near_duplicate_rows for task in report.tasks.values()] == [21] * 3
    assert [task.requests for task in report.tasks.values()] == [32] * 3
    assert balanced(report)


def test_two_runs_that_begin_together_decide_once(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder)
    real = representatives._lay_down
    others: list[Any] = []

    def meanwhile(job: Job, *arguments: Any) -> None:
        real(job, *arguments)
        monkeypatch.setattr(representatives, "_lay_down", real)
        with pytest.raises(EngineDied):
            folder.run(engine=CountingEngine(dies_after=1), **ANSWERS)
        others.extend(internal(folder).glob("near/*/*.json"))
        assert others

    monkeypatch.setattr(representatives, "_lay_down", meanwhile)
    folders: list[set[str]] = []
    read = feed.open_near

    def noting(uri: str, *arguments: Any) -> Any:
        if others:  # of the run that was here first
            folders.append({path.name for path in internal(folder).glob("near/*/*") if path.is_dir()})
            assert uri.endswith(json.loads(others[0].read_bytes())["name"])
        return read(uri, *arguments)

    monkeypatch.setattr(feed, "open_near", noting)
    _, report = run(folder, **ANSWERS)
    assert [task.near_duplicate_rows for task in report.tasks.values()] == [21] * 3
    assert {len(found) for found in folders} == {1}, "the loser has removed what it laid down"


def test_a_mark_that_a_power_cut_has_torn_is_made_anew(folder: Any) -> None:
    fill(folder)
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=5), **ANSWERS, **FINE)
    (mark,) = internal(folder).glob("near/*/*.json")
    mark.write_bytes(b"{")
    _, report = run(folder, **ANSWERS, **FINE)
    assert [task.near_duplicate_rows for task in report.tasks.values()] == [21] * 3


def test_halves_of_a_unit_have_its_rows_and_those_of_a_damaged_file_are_asked_themselves(
    folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    near = fill(folder)
    with pytest.raises(EngineDied):
        folder.run(engine=CountingEngine(dies_after=5), **ANSWERS)
    plan, _ = read_plan(f"{internal(folder)}/plan.parquet")
    assert plan is not None
    (unit,) = (unit.id for unit in plan.units if unit.shard == "b.parquet")
    (file,) = internal(folder).glob(f"near/*/*/{unit}/*.arrow")
    assert read_near_rows([str(file.parent)]).keys() == {*range(10), 11}
    whole = next(found for found in plan.units if found.id == unit)
    ledger = Ledger(Layout(f"{folder.uri}/answers", folder.job().partition(DAY)), plan)
    halves = [open_near(str(file.parents[1]), ledger, half)[0].keys() for half in whole.split(5)]
    assert halves == [{*range(5)}, {*range(5, 10), 11}], "whoever takes a part of a unit over"
    file.write_bytes(file.read_bytes()[:100])
    run(folder, **ANSWERS)
    assert [
        "is left out" in record.message for record in caplog.records if record.levelname == "WARNING"
    ] == [True]
    assert {doc_id for doc_id, row in rows(folder, "summaries").items() if row[NEAR_DUPLICATE_OF]} == {
        doc_id for doc_id in near if doc_id.startswith("c")
    }


def test_an_estimate_counts_what_a_run_then_asks(folder: Any) -> None:
    fill(folder)
    for settings in (REPORT, ANSWERS):
        job = folder.job(**settings)
        expected = estimate_partition(job, job.partition(DAY), tokenizer=folder.tokenizer)
        _, report = run(folder, **settings)
        assert report.estimate is not None, "of the very same plan"
        assert expected.near_duplicates == report.near_duplicates
        for name in TASKS:
            task, found = expected.tasks[name], report.tasks[name]
            assert (task.requests, task.duplicate_requests, task.near_duplicate_requests) == (
                found.requests, found.duplicate_requests, found.near_duplicate_requests,
            )  # fmt: skip
            assert task.prompt_tokens == found.tokens.prompt - found.spared_tokens.prompt


def test_a_shard_that_cannot_be_used_has_no_sketches(folder: Any) -> None:
    near = fill(folder)
    folder.put("aa", folder.read("a")[:-200] + b"x" * 200)
    texts = [family[0] for family in families(1, 10)]
    folder.write_table(
        "ab", pa.table({"doc_id": texts, "text": texts}), row_group_size=5, use_dictionary=False
    )
    content = bytearray(folder.read("ab"))
    group = pq.ParquetFile(pa.BufferReader(bytes(content))).metadata.row_group(1)
    start = group.column(1).data_page_offset  # the first rows are sketched before
    content[start : start + 60] = b"\xff" * 60
    folder.put("ab", bytes(content))
    _, report = run(folder, **ANSWERS)
    assert {shard.shard for shard in report.failed_shards} == {"aa.parquet", "ab.parquet"}
    assert {
        doc_id: row[NEAR_DUPLICATE_OF]
        for doc_id, row in rows(folder, "summaries").items()
        if row[NEAR_DUPLICATE_OF]
    } == near


def test_off_may_be_written_as_yaml_reads_it() -> None:
    assert Reuse.model_validate({"near_duplicates": False}).near_duplicates == "off"
    with pytest.raises(ValueError, match="'off', 'report' or 'answers'"):
        Reuse.model_validate({"near_duplicates": True})
    for similarity in (0.4, 1.1):
        with pytest.raises(ValueError, match="similarity"):
            Reuse.model_validate({"similarity": similarity})


def test_a_carried_column_of_the_same_name_is_refused_where_it_would_clash(folder: Any) -> None:
    source = {"uri": f"{folder.uri}/documents", "carry": [NEAR_DUPLICATE_OF]}
    folder.job(source=source, **REPORT)
    with pytest.raises(ValueError, match=NEAR_DUPLICATE_OF):
        folder.job(source=source, **ANSWERS)
