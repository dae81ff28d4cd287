"""Reports of finished partitions: those that are there, in the order of their days."""

from __future__ import annotations

from typing import Any

import pytest

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.history import read_history, read_report, reports_before

DAYS = ["2026-11-18", "2026-11-19", "2026-11-20"]


@pytest.fixture
def three_days(folder: Any) -> Any:
    for number, day in enumerate(DAYS):
        folder.write("a", [f"Text {row}" for row in range(number + 1)], day=day)
        folder.run(day=day)
    return folder


def layout(folder: Any, day: str) -> Layout:
    return Layout(f"{folder.uri}/answers", Partition("dt", day))


def test_reports_come_in_the_order_of_their_days(three_days: Any) -> None:
    output = f"{three_days.uri}/answers"
    history = read_history(output)
    assert [(partition.value, report.documents) for partition, report in history.reports.items()] == [
        ("2026-11-18", 1),
        ("2026-11-19", 2),
        ("2026-11-20", 3),
    ]
    assert list(read_history(output, first=DAYS[1], last=DAYS[1]).reports) == [Partition("dt", DAYS[1])]
    # Of many days, timelines would fill the memory.
    assert not any(report.timeline for report in history.reports.values())
    alone = read_report(output, Partition("dt", DAYS[0]))
    assert alone is not None
    assert alone.timeline


def test_a_day_without_a_manifest_has_no_report_yet(three_days: Any) -> None:
    """A run writes its report before it is finished."""
    storage.delete(layout(three_days, DAYS[1]).manifest)
    output = f"{three_days.uri}/answers"
    assert [partition.value for partition in read_history(output).reports] == [DAYS[0], DAYS[2]]
    assert [report.documents for report in reports_before(output, Partition("dt", DAYS[2]), most=5)] == [1]


def test_a_report_of_another_version_is_named_and_costs_the_others_nothing(three_days: Any) -> None:
    storage.put_bytes(layout(three_days, DAYS[0]).report, b'{"report_version": 99}')
    storage.delete(layout(three_days, DAYS[1]).report)
    history = read_history(f"{three_days.uri}/answers")
    assert [partition.value for partition in history.unreadable] == DAYS[:2]
    assert [partition.value for partition in history.reports] == [DAYS[2]]
    assert read_report(f"{three_days.uri}/answers", Partition("dt", DAYS[0])) is None


def test_of_the_days_before_the_latest_are_taken(three_days: Any) -> None:
    output, last = f"{three_days.uri}/answers", Partition("dt", DAYS[2])
    assert [report.documents for report in reports_before(output, last, most=5)] == [1, 2]
    assert [report.documents for report in reports_before(output, last, most=1)] == [2]
    assert reports_before(output, Partition("dt", DAYS[0]), most=5) == []
    assert reports_before(output, Partition(), most=5) == []
