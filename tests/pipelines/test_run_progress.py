"""Progress where there is no terminal: a line every few seconds, and none that only says the same again."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from docmill.ops.progress import Progress
from docmill.pipelines import run_progress


def test_a_line_comes_every_five_seconds_and_the_same_one_every_thirty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=100)
    lines = []
    with run_progress.shown_progress(console) as show:
        for second in range(70):
            show(
                Progress(
                    "loading model" if second < 2 else "running", 0 if second < 55 else second, 99, 0, 0, 1.0
                )
            )
            printed = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
            lines += [(second, line) for line in printed[len(lines) :]]
            now += 1
    shown = [(second, line.split(",")[0]) for second, line in lines]
    assert shown == [
        (0, "loading model: 0 of 99 documents"),
        (2, "running: 0 of 99 documents"),
        (32, "running: 0 of 99 documents"),
        (55, "running: 55 of 99 documents"),
        (60, "running: 60 of 99 documents"),
        (65, "running: 65 of 99 documents"),
    ]
