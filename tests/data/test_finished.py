"""Which partitions are finished: those with a manifest, within the days that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.data import storage
from docmill.data.finished import finished_partitions, list_run_partitions
from docmill.data.layout import Layout
from docmill.data.manifest import Manifest, replace_manifest
from docmill.data.records import Partition

DAYS = [Partition("dt", f"2026-11-{day}") for day in (18, 19, 20)]


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Three days that were run, of which the second is not finished; and folders that are no partitions."""
    uri = str(tmp_path)
    for partition in DAYS:
        storage.put_bytes(Layout(uri, partition).plan, b"x")
    for partition in (DAYS[0], DAYS[2]):
        replace_manifest(
            Layout(uri, partition).manifest, Manifest(job="test", partition=str(partition)), version=None
        )
    storage.put_bytes(f"{uri}/_docmill/answers/dt=2026-11-20.x.parquet", b"x")
    storage.put_bytes(f"{uri}/_docmill/probe-1/plan.parquet", b"x")
    return uri


def test_a_partition_without_a_manifest_was_run_and_is_not_finished(output: str) -> None:
    assert list_run_partitions(output) == DAYS
    finished = finished_partitions(output)
    assert list(finished) == [DAYS[0], DAYS[2]]
    assert finished[DAYS[2]].partition == "dt=2026-11-20"


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("2026-11-19", None, DAYS[1:]),
        (None, "2026-11-19", DAYS[:2]),
        ("2026-11-19", "2026-11-19", DAYS[1:2]),  # both ends are included
        ("2026-11-21", None, []),
        ("2026-11-19", "2026-11", DAYS[1:]),  # all of November
    ],
)
def test_days_are_chosen_with_both_ends(
    output: str, first: str | None, last: str | None, expected: list[Partition]
) -> None:
    assert list_run_partitions(output, first=first, last=last) == expected


def test_an_output_that_is_not_cut_into_partitions_is_one_of_no_day(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), Partition())
    replace_manifest(layout.manifest, Manifest(job="test", partition="all"), version=None)
    assert list(finished_partitions(str(tmp_path))) == [Partition()]
    assert list(finished_partitions(str(tmp_path), first="2026-11-20")) == []


def test_where_nothing_was_run_there_is_nothing(tmp_path: Path) -> None:
    assert finished_partitions(f"{tmp_path}/nowhere") == {}
