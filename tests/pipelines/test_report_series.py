"""A run over time: rates of all engines together, from counts that only grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docmill.ops.history import read_report
from docmill.ops.report import EngineSettings, Report, TimelinePoint
from docmill.pipelines.job_files import load_job
from docmill.pipelines.report_series import MOST_CELLS, series_of

DAY = "2026-11-20"


def point(worker: str, seconds: float, **figures: Any) -> TimelinePoint:
    values = {
        "num_running": 10,
        "num_waiting": 0,
        "kv_cache_used": 0.5,
        "num_prompt_tokens": 0,
        "num_output_tokens": 0,
    }
    return TimelinePoint(worker=worker, seconds=seconds, **(values | figures))


def steady(worker: str, *, end: int, tokens_per_second: int) -> list[TimelinePoint]:
    return [
        point(
            worker,
            second,
            num_prompt_tokens=second * tokens_per_second,
            num_output_tokens=second * tokens_per_second // 10,
        )
        for second in range(end + 1)
    ]


@pytest.fixture
def report(finished_job: Path) -> Callable[..., Report]:
    """`report(timeline)`: of a real run, with another timeline."""
    job = load_job(str(finished_job))
    found = read_report(job.output.uri, job.partition(DAY))
    assert found is not None

    def make(timeline: list[TimelinePoint]) -> Report:
        settings = EngineSettings(max_num_seqs=20)
        return found.model_copy(update={"timeline": timeline, "engine_settings": settings})

    return make


def test_two_engines_are_as_fast_as_both_together(report: Callable[..., Report]) -> None:
    series = series_of(
        report([*steady("a", end=20, tokens_per_second=100), *steady("b", end=10, tokens_per_second=300)])
    )
    assert series is not None
    early = [index for index, second in enumerate(series.seconds) if second < 9]
    late = [index for index, second in enumerate(series.seconds) if second > 11]
    assert early
    assert late
    assert [series.prompt_tokens_per_second[index] for index in early] == pytest.approx([400.0] * len(early))
    assert [series.output_tokens_per_second[index] for index in late] == pytest.approx([10.0] * len(late))
    # The second has ended: of 40 places 10 are taken, and the cache is that of the first alone.
    assert [series.running_share[index] for index in early] == pytest.approx([0.5] * len(early))
    assert [series.running_share[index] for index in late] == pytest.approx([0.25] * len(late))
    assert [series.kv_cache_share[index] for index in late] == pytest.approx([0.5] * len(late))


def test_a_long_run_is_shown_in_so_many_cells_that_hold_all_tokens(report: Callable[..., Report]) -> None:
    points = steady("a", end=200, tokens_per_second=50)
    series = series_of(report(points))
    assert series is not None
    assert len(series.seconds) == MOST_CELLS
    width = 200 / MOST_CELLS
    assert sum(rate * width for rate in series.prompt_tokens_per_second) == pytest.approx(200 * 50, rel=1e-3)


@pytest.mark.parametrize("points", [[], [point("a", 0.0), point("a", 1.0)], [point("a", 0.0)] * 5])
def test_a_run_too_short_for_a_picture_has_none(
    report: Callable[..., Report], points: list[TimelinePoint]
) -> None:
    assert series_of(report(points)) is None
