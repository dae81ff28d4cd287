"""A run as it goes: a bar on a terminal, a line every few seconds elsewhere. Both on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from docmill.ops.progress import OnProgress, Progress
from docmill.pipelines.progress_lines import duration, progress_line

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_SAME_LINES = 30.0  # a sign of life, where nothing has changed


@contextmanager
def shown_progress(console: Console) -> Iterator[OnProgress]:
    """What to hand to `run_partition` so that the console shows how far it is."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
    )  # fmt: skip
    with Bars(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("starting", total=None, rate="", left="")

        def show(progress: Progress) -> None:
            left = progress.eta_seconds
            bars.update(
                bar,
                description=progress.stage,
                total=progress.num_documents_total,
                completed=progress.num_documents_done,
                rate=f"{progress.tokens_per_second:,.0f} tokens/s" if progress.num_prompt_tokens else "",
                left=f"{duration(left)} left" if left else "",
            )

        yield show


class _Lines:
    def __init__(self, console: Console):
        self._console, self._stage, self._line, self._written = console, "", "", 0.0

    def __call__(self, progress: Progress) -> None:
        now, line = time.monotonic(), progress_line(progress)
        wait = SECONDS_BETWEEN_SAME_LINES if line == self._line else SECONDS_BETWEEN_LINES
        if progress.stage == self._stage and now - self._written < wait:
            return
        self._stage, self._line, self._written = progress.stage, line, now
        self._console.print(line)


class StepLines:
    """A line for each step of a work that has no documents to count, and one every few seconds while it lasts."""

    def __init__(self, console: Console):
        self._console, self._what, self._written = console, "", 0.0

    def __call__(self, what: str, share: float) -> None:
        """`share` of the step is done, from 0 to 1."""
        now = time.monotonic()
        if what == self._what and now - self._written < SECONDS_BETWEEN_LINES:
            return
        self._what, self._written = what, now
        self._console.print(f"{what}: {share:.0%}" if share else what)
