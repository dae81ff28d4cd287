"""The plan and its units: stored and read back, split without a gap, and equal ids for equal work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.data import storage
from docmill.data.plan import Plan, PlannedShard, Unit, encode_plan, read_plan

PLAN = Plan(
    "tickets",
    "dt=2026-11-20",
    ["summaries"],
    "settings",
    [PlannedShard("a.parquet", "/in/a.parquet", 10, "v1", 9), PlannedShard("b.parquet", "/in/b", 1, "v", error="bad")],
    [Unit("a.parquet", "v1", 0, 5, 2.5, (3,)), Unit("a.parquet", "v1", 5, 4, 2.0, (), "0f")],
)  # fmt: skip


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    uri = f"{tmp_path}/plan.parquet"
    storage.put_bytes(uri, encode_plan(PLAN))
    plan, version = read_plan(uri)
    assert plan == PLAN
    assert plan is not None
    assert plan.id == PLAN.id
    assert [unit.id for unit in plan.units] == [unit.id for unit in PLAN.units]
    assert storage.replace_bytes(uri, b"another", version=version)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1", encode_plan(PLAN)[:-9]])
def test_what_is_no_plan_is_none_and_can_be_replaced(tmp_path: Path, content: bytes) -> None:
    uri = f"{tmp_path}/plan.parquet"
    storage.put_bytes(uri, content)
    plan, version = read_plan(uri)
    assert plan is None
    assert storage.replace_bytes(uri, encode_plan(PLAN), version=version)
    assert read_plan(uri)[0] == PLAN


def test_a_plan_of_another_version_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{tmp_path}/plan.parquet"
    storage.put_bytes(uri, encode_plan(PLAN))
    monkeypatch.setattr("docmill.data.plan.PLAN_VERSION", 3)
    assert read_plan(uri)[0] is None


def test_no_plan_is_none(tmp_path: Path) -> None:
    assert read_plan(f"{tmp_path}/plan.parquet") == (None, None)


@given(first=st.integers(0, 100), rows=st.integers(2, 50), data=st.data())
def test_halves_cover_what_the_whole_did(first: int, rows: int, data: st.DataObject) -> None:
    duplicates = tuple(data.draw(st.lists(st.integers(first, first + rows - 1), unique=True).map(sorted)))
    unit = Unit("a", "v", first, rows, 7.0, duplicates)
    left, right = unit.split(data.draw(st.integers(first + 1, first + rows - 1)))
    assert (left.first_row, left.end_row, right.end_row) == (unit.first_row, right.first_row, unit.end_row)
    assert left.num_rows > 0 < right.num_rows
    assert left.duplicate_rows + right.duplicate_rows == duplicates
    assert left.estimated_seconds + right.estimated_seconds == pytest.approx(7.0)
    assert left.ancestors == right.ancestors == (unit.id,)
    assert len({unit.id, left.id, right.id}) == 3


def test_halves_of_halves_know_all_that_they_came_from() -> None:
    unit = PLAN.units[0]
    left, _ = unit.split(3)
    _, last = left.split(2)
    assert last.ancestors == (unit.id, left.id)


@pytest.mark.parametrize(
    "other",
    [
        Unit("b", "v", 0, 5, 1.0),
        Unit("a", "w", 0, 5, 1.0),  # the file was rewritten
        Unit("a", "v", 1, 5, 1.0),
        Unit("a", "v", 0, 6, 1.0),
        Unit("a", "v", 0, 5, 1.0, (2,)),  # another shard has an id of it now
    ],
)
def test_other_work_has_another_id(other: Unit) -> None:
    assert other.id != Unit("a", "v", 0, 5, 1.0).id


def test_the_estimate_is_no_part_of_the_id() -> None:
    assert Unit("a", "v", 0, 5, 1.0).id == Unit("a", "v", 0, 5, 9.0).id
