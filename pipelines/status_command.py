"""`docmill status`: how far a partition is, in a few lines or as JSON, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from docmill.ops.status import PartitionStatus, StatusReader
from docmill.pipelines.choices import choose_partition
from docmill.pipelines.console import print_json, stdout_console
from docmill.pipelines.job_files import load_job
from docmill.pipelines.progress_lines import duration
from docmill.pipelines.report_text import incident_lines

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LOOKS = 2.0

_MEANING = {
    "never run": "never run",
    "planned": "planned; no worker has begun yet (it loads the model, or the run was ended before)",
    "running": "running",
    "interrupted": "interrupted; nobody works on it. What is finished is kept: the same `docmill run` does the rest",
    "writing": "all answers are there, the output files are being written (or the run was ended: run it again)",
    "finished": "finished",
}


def status_command(job_name: str, *, partition_value: str | None, watch: bool, as_json: bool) -> None:
    """Show it once; with `watch` every two seconds until it is finished, or until Ctrl-C, which is no error then."""
    job = load_job(job_name)
    reader = StatusReader(job, choose_partition(job, partition_value))
    if not watch:
        status = reader.read()
        if as_json:
            print_json(status.model_dump(mode="json"))
        else:
            print_status(stdout_console(), status)
        return
    try:
        for status in _looks(reader):
            if as_json:
                print_json(status.model_dump(mode="json"), indent=None)
            else:
                _print_again(stdout_console(), status)
    except KeyboardInterrupt:
        return


def print_status(console: Console, status: PartitionStatus) -> None:
    """A few lines; those without anything to say are left out."""
    for line in status_lines(status):
        console.print(line, soft_wrap=True)


def status_lines(status: PartitionStatus) -> list[str]:
    """What there is to say."""
    lines = [f"{status.job}, {status.partition}: {_MEANING[status.state]}"]
    if status.finished_at is not None:
        earlier = "" if status.state == "finished" else " (an earlier run)"
        lines.append(f"finished   {status.finished_at:%Y-%m-%d %H:%M} UTC{earlier}")
        if missing := [name for name, finished_at in status.tasks.items() if finished_at is None]:
            lines.append(f"not yet    {', '.join(missing)}")
    if status.units and status.state != "finished":
        lines.append(
            f"units      {status.units_done:,} done, {status.units_claimed:,} claimed, {status.units_left:,} left "
            f"of {status.units:,}"
        )
    if status.documents:
        share = f" ({status.documents_done / status.documents:.0%})"
        lines.append(f"documents  {status.documents_done:,} of {status.documents:,}{share}")
    if status.documents_per_second:
        left = f", about {duration(status.eta_seconds)} left" if status.eta_seconds else ""
        lines.append(
            f"rate       {status.documents_per_second:,.1f} documents/s, {status.tokens_per_second or 0:,.0f} "
            f"tokens/s{left}"
        )
    lines += [
        f"worker     {worker.name} on {worker.host}: {worker.rows:,} documents, "
        f"{worker.prompt_tokens + worker.output_tokens:,} tokens in {duration(worker.seconds)}"
        for worker in status.workers
    ]
    if status.failed_answers:
        lines.append(f"failed     {status.failed_answers:,} answers")
    if status.dead_letters:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(status.dead_letters.items()))
        lines.append(f"dead       {sum(status.dead_letters.values()):,} requests failed for good: {reasons}")
    return [*lines, *incident_lines(status.incidents)]


def _looks(reader: StatusReader) -> Iterator[PartitionStatus]:
    while True:
        status = reader.read()
        yield status
        if status.state == "finished":
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _print_again(console: Console, status: PartitionStatus) -> None:
    """Over the lines before on a terminal; one line elsewhere."""
    if console.is_terminal:
        console.clear()
        print_status(console, status)
        return
    first, *rest = status_lines(status)
    wanted = [line for line in rest if line.startswith(("documents", "rate"))]
    console.print("; ".join([first, *(" ".join(line.split()) for line in wanted)]), soft_wrap=True)
