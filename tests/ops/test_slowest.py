"""The slowest documents: a few, by their ids, from the engine that took so long over them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from docmill.ops.report import Report
from docmill.ops.slowest import MOST_SLOWEST

SECRET = "Nobody may read this"


def takes_its_time(_: Any) -> None:
    time.sleep(0.002)


def test_the_report_names_the_documents_that_took_the_engine_longest(
    folder: Any, scripted: Callable[..., Any]
) -> None:
    folder.write("a", [f"{SECRET} {number}" for number in range(30)])
    engine = scripted(takes_its_time, order="oldest first")  # so the last ones wait for all others
    report: Report = folder.run(tasks=["classifications"], engine=engine)
    slowest = report.slowest
    assert len(slowest) == MOST_SLOWEST
    seconds = [slow.seconds for slow in slowest]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] >= 0.02
    assert {slow.doc_id for slow in slowest} == {f"a-{row}" for row in range(20, 30)}
    assert all(slow.doc_id == f"a-{slow.row}" and slow.shard == "a.parquet" for slow in slowest)
    assert slowest[0].prompt_tokens > 0
    assert SECRET not in report.model_dump_json()


def test_documents_that_the_engine_was_spared_are_none_of_them(folder: Any) -> None:
    """Five equal texts are one request; the four others wait for its answer, which is no work of the engine."""
    folder.write("a", ["the same text"] * 5)
    report: Report = folder.run(tasks=["classifications"])
    assert [slow.doc_id for slow in report.slowest] == ["a-0"]
