"""Rows by day and task, and their sums."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from docmill.ops.daily_figures import TaskDay, as_frame, read_daily_figures, task_days
from docmill.ops.totals import add_up, add_up_by_task

DAYS = ["2026-11-19", "2026-11-20"]

ROW = TaskDay(
    job="test", partition="2026-11-20", task="topics", kind="classify",
    finished_at=datetime(2026, 11, 20, tzinfo=UTC), documents=100, ok=90, failed=8, skipped=2, requests=98,
    spared_requests=10, prompt_tokens=1000, cached_tokens=400, output_tokens=100, truncated_answers=1,
    engine_seconds=36.0, usd=0.5, usd_expected=0.4,
)  # fmt: skip


def test_a_document_counts_once_whatever_is_asked_about_it() -> None:
    rows = [
        ROW,
        replace(ROW, task="summaries", documents=100),
        replace(ROW, partition="2026-11-19", documents=50),
    ]
    total = add_up(rows)
    assert total.documents == 150
    assert (total.ok, total.failed, total.skipped) == (270, 24, 6)
    assert total.failed_share == pytest.approx(0.08)
    assert total.usd == pytest.approx(1.5)
    assert total.usd_per_1000_documents == pytest.approx(10.0)
    assert {name: task.documents for name, task in add_up_by_task(rows).items()} == {
        "topics": 150,
        "summaries": 100,
    }


def test_days_without_a_price_or_a_plan_are_left_out_of_what_is_compared() -> None:
    rows = [
        ROW,
        replace(ROW, partition="2026-11-18", usd=None, usd_expected=None),
        replace(ROW, partition="2026-11-19", usd_expected=None),
    ]
    total = add_up(rows)
    assert (total.documents, total.usd) == (300, 1.0)
    assert total.usd_per_1000_documents == pytest.approx(5.0)  # of the 200 that have a price
    assert (total.usd_expected, total.usd_of_expected) == (0.4, 0.5)
    assert total.over_estimate == pytest.approx(0.25)


def test_where_nothing_has_a_price_nothing_has_a_cost() -> None:
    total = add_up([replace(ROW, usd=None, usd_expected=None)])
    assert (total.usd, total.usd_per_1000_documents, total.over_estimate) == (None, None, None)
    assert add_up([]).failed_share == 0.0


def test_the_rows_are_the_reports_own_figures(folder: Any) -> None:
    folder.settings["prices"] = {"usd_per_hour": {"cpu": 1.0}}
    reports = []
    for day in DAYS:
        folder.write("a", ["eins", "zwei", ""], day=day)
        reports.append(folder.run(day=day))
    found = read_daily_figures(f"{folder.uri}/answers")
    assert found.rows() == as_frame(task_days(reports)).rows()
    assert found.select("partition", "task").rows()[:2] == [
        ("2026-11-19", "translations"),
        ("2026-11-19", "classifications"),
    ]
    assert found["skipped"].to_list() == [1] * 6
    by_day = found.group_by("partition", maintain_order=True).agg(pl.col("engine_seconds", "usd").sum())
    assert by_day["engine_seconds"].to_list() == pytest.approx([report.engine_seconds for report in reports])
    assert by_day["usd"].to_list() == pytest.approx([report.cost.usd for report in reports])
    assert found["usd_expected"].null_count() == 6
