"""Planning: every row in exactly one unit, the same plan for the same files, and a stored one used again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docmill.data import storage
from docmill.data.plan import Plan
from docmill.ops import planning
from docmill.ops.partitions import find_shards
from docmill.ops.planning import has_changed, is_plan_of, make_plan, scan_shards, settings_fingerprint

SETTINGS = "settings"


def plan_of(folder: Any, **changes: Any) -> Plan:
    job = folder.job(**changes)
    partition = job.partition("2026-11-20")
    shards = find_shards(job, partition)
    return make_plan(job, partition, shards, scan_shards(job, shards), job.tasks, fingerprint=SETTINGS)


def shards_of(folder: Any) -> list[Any]:
    return storage.list_shards(f"{folder.uri}/documents/dt=2026-11-20")


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5_000), max_size=80),
    unit_seconds=st.floats(0.001, 3.0),
    max_rows=st.integers(1, 40),
)
def test_units_cover_each_row_once_and_are_bounded(
    lengths: list[int], unit_seconds: float, max_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "MAX_UNIT_ROWS", max_rows)
        patched.setattr(planning, "MAX_UNIT_BYTES", 12_000)
        seconds = [length / 1000 for length in lengths]
        borders = planning._cut(lengths, seconds, unit_seconds)
    assert (borders[0], borders[-1]) == (0, len(lengths))
    if lengths:
        assert sorted(set(borders)) == borders, "no unit is empty"
    for start, end in pairwise(borders):
        assert end - start <= max_rows
        assert sum(lengths[start:end]) <= 12_000
        assert sum(seconds[start:end]) <= 2 * unit_seconds or end - start == 1


def test_the_plan_is_the_same_for_the_same_files_and_settings(folder: Any) -> None:
    for name in ("a", "b"):
        folder.write(name, [f"Text {number}." * (number + 1) for number in range(60)])
    fine = {"ledger": {"unit_seconds": 0.3}}
    plan = plan_of(folder, **fine)
    assert plan_of(folder, **fine) == plan
    assert plan_of(folder, **fine).id == plan.id
    assert len(plan.units) > 4
    for name in ("a.parquet", "b.parquet"):
        units = [unit for unit in plan.units if unit.shard == name]
        assert [unit.first_row for unit in units[1:]] == [unit.end_row for unit in units[:-1]]
        assert (units[0].first_row, units[-1].end_row) == (0, 60)


def test_units_whose_texts_begin_alike_stand_where_the_first_of_them_does(folder: Any) -> None:
    heads = ["The form of the north. ".ljust(300, "n"), "The form of the south. ".ljust(300, "s")]
    for number in range(6):
        folder.write(str(number), [f"{heads[number % 2]} {number} {row}" for row in range(3)])
    folder.write("2a", ["Texts of", "their own"])
    units = plan_of(folder).units
    assert [unit.shard.removesuffix(".parquet") for unit in units] == ["0", "2", "4", "1", "3", "5", "2a"]
    assert [len({unit.opening for unit in units[part]}) for part in (slice(0, 3), slice(3, 6))] == [1, 1]
    assert units[0].opening != units[3].opening
    assert units[-1].opening == ""


def test_units_of_unchanged_shards_keep_their_ids(folder: Any) -> None:
    folder.write("a", [f"Text {number}." for number in range(60)])
    folder.write("b", ["old"] * 10)
    before = {unit.id for unit in plan_of(folder).units if unit.shard == "a.parquet"}
    folder.write("b", ["new"] * 11)
    folder.write("c", ["more"])
    plan = plan_of(folder)
    assert before == {unit.id for unit in plan.units if unit.shard == "a.parquet"}
    assert {unit.shard for unit in plan.units} == {"a.parquet", "b.parquet", "c.parquet"}


def test_an_empty_shard_is_one_empty_unit(folder: Any) -> None:
    folder.write("a", [], ids=pa.array([], pa.string()))
    (unit,) = plan_of(folder).units
    assert (unit.first_row, unit.num_rows, unit.estimated_seconds) == (0, 0, 0.0)


def test_a_bad_shard_is_in_the_plan_without_units_and_its_ids_do_not_count(folder: Any) -> None:
    folder.write("a", ["eins"], ids=["one"])
    folder.put("b", b"no parquet")
    folder.write("c", ["zwei", "drei"], ids=["one", "two"])
    plan = plan_of(folder)
    assert [shard.name for shard in plan.shards if shard.error] == ["b.parquet"]
    assert [(unit.shard, unit.duplicate_rows) for unit in plan.units] == [
        ("a.parquet", ()),
        ("c.parquet", (0,)),
    ]


def test_a_stored_plan_is_used_as_long_as_files_and_settings_are_the_same(folder: Any) -> None:
    folder.write("a", ["eins"])
    plan = plan_of(folder)
    assert is_plan_of(plan, shards_of(folder), fingerprint=SETTINGS)
    assert not is_plan_of(plan, shards_of(folder), fingerprint="others")
    folder.write("a", ["zwei!"])
    assert not is_plan_of(plan, shards_of(folder), fingerprint=SETTINGS)


def test_a_source_has_changed_by_new_and_by_rewritten_shards_but_not_by_those_that_went(folder: Any) -> None:
    folder.write("a", ["eins"])
    folder.write("b", ["zwei"])
    plan = plan_of(folder)
    assert not has_changed(plan, shards_of(folder))
    folder.remove("b")
    assert not has_changed(plan, shards_of(folder)), "it is a failed shard"
    folder.write("a", ["rewritten"])
    assert has_changed(plan, shards_of(folder))
    folder.write("c", ["new"])
    assert has_changed(plan_of(folder), shards_of(folder)) is False
    folder.write("d", ["newer"])
    assert has_changed(plan, shards_of(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},  # it stands in every output file
        {"system_prompt": "Other."},
        {"prepare": {"max_chars": 7}},
        {"source": {"uri": "/in", "carry": ["language"]}},
        {"chunking": {"max_tokens": 99}},
    ],
)
def test_settings_that_change_what_is_written_change_the_fingerprint(
    folder: Any, changes: dict[str, Any]
) -> None:
    job, other = folder.job(source={"uri": "/in"}), folder.job(**{"source": {"uri": "/in"}, **changes})
    before = settings_fingerprint(job, job.tasks, "model")
    assert settings_fingerprint(other, other.tasks, "model") != before
    assert settings_fingerprint(job, job.tasks, "another model") != before
    one = {"summaries": job.tasks["summaries"]}
    assert settings_fingerprint(job, one, "model") != before


def test_what_only_steers_the_run_does_not_change_the_fingerprint(folder: Any) -> None:
    job = folder.job()
    other = folder.job(
        ledger={"unit_seconds": 1}, budget={"max_hours": 1}, engine={"kind": "fake", "max_in_flight": 9}
    )
    assert settings_fingerprint(job, job.tasks, "m") == settings_fingerprint(other, other.tasks, "m")
