"""`docmill plan`: what a run would ask, take and cost, as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docmill.data.records import Partition
from docmill.ops.estimate import estimate_partition
from docmill.ops.expected import Estimate, Range
from docmill.ops.job import Job
from docmill.ops.probe import PROBE_DOCUMENTS, is_measured, probe
from docmill.ops.sources import ensure_source
from docmill.pipelines.choices import choose_partition, choose_tasks
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.job_files import load_job
from docmill.pipelines.near_duplicate_text import near_duplicate_lines
from docmill.pipelines.progress_lines import duration
from docmill.pipelines.run_progress import shown_progress
from docmill.pipelines.stop_signals import StopSignals

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def plan_command(
    job_name: str,
    *,
    partition_value: str | None,
    tasks: str | None,
    probe_documents: int | None,
    as_json: bool,
) -> None:
    """Print the estimate. Where nothing has been measured yet, a probe comes first; 0 documents: never."""
    job = load_job(job_name)
    chosen = choose_tasks(job, tasks)
    ensure_source(job)
    partition = choose_partition(job, partition_value)
    if as_json:
        with stdout_kept_clean():
            estimate = _estimate(job, partition, chosen, probe_documents)
        print_json(estimate.model_dump(mode="json"))
    else:
        print_estimate(stdout_console(), _estimate(job, partition, chosen, probe_documents))


def print_estimate(console: Console, estimate: Estimate) -> None:
    """A table of the tasks, and a few lines."""
    console.print(_tasks(estimate))
    for line in estimate_lines(estimate):
        console.print(line, soft_wrap=True)


def estimate_lines(estimate: Estimate) -> list[str]:
    """What there is to say beside the tasks."""
    counted = estimate.counted_documents
    of_them = f", of which {counted:,} were tokenised" if counted < estimate.documents else ""
    lines = [f"documents  {estimate.documents:,} in {estimate.shards:,} shards{of_them}"]
    spared = {
        "duplicates": estimate.duplicate_documents,
        "answered in earlier runs": estimate.reused_documents,
        "not asked about": estimate.not_asked_documents,
    }
    if parts := [f"{number:,} {what}" for what, number in spared.items() if number]:
        lines.append(f"spared     {', '.join(parts)}")
    if estimate.near_duplicates is not None:
        lines += near_duplicate_lines(estimate.near_duplicates, ran=False)
    if estimate.failed_shards:
        lines.append(f"bad shards {estimate.failed_shards:,} cannot be used")
    if estimate.wall_seconds is None or estimate.engine_seconds is None:
        return [
            *lines,
            "time       unknown: nothing was measured yet; run the job once, or `docmill plan` without --probe 0",
        ]
    wall, engines = estimate.wall_seconds, estimate.engines
    with_engines = f" with {engines} engines" if engines > 1 else ""
    lines.append(f"time       {_duration(wall)}{with_engines}")
    if estimate.usd is None:
        lines.append(f"cost       unknown: prices.usd_per_hour says nothing about {estimate.device!r}")
    else:
        usd = estimate.usd
        between = f"{usd.low:.4f} to {usd.high:.4f}"
        lines.append(f"cost       {usd.expected:.4f} USD ({between}) at {estimate.usd_per_hour:.2f} an hour")
    if estimate.measured_at is not None:
        lines.append(f"measured   on {estimate.device}, last at {estimate.measured_at:%Y-%m-%d %H:%M} UTC")
    return lines


def _estimate(
    job: Job, partition: Partition, chosen: list[str] | None, probe_documents: int | None
) -> Estimate:
    wanted = (0 if is_measured(job) else PROBE_DOCUMENTS) if probe_documents is None else probe_documents
    if wanted:
        _probe(job, partition, chosen, wanted)
    return estimate_partition(job, partition, tasks=chosen)


def _probe(job: Job, partition: Partition, chosen: list[str] | None, num_documents: int) -> None:
    console = stderr_console()
    console.print(
        f"measuring on up to {num_documents:,} documents; the profile is kept, and every run refines it"
    )

    def on_stop() -> None:
        console.print("stopping: the measurement is thrown away")

    with (
        shown_progress(console) as on_progress,
        StopSignals(on_progress, on_stop=on_stop, impatient=True) as signals,
    ):
        probe(
            job,
            partition,
            tasks=chosen,
            num_documents=num_documents,
            on_progress=signals.on_progress,
            stop=signals.stop,
        )


def _tasks(estimate: Estimate) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD, title=f"{estimate.job}, {estimate.partition}: expected", title_justify="left"
    )
    table.add_column("task")
    for name in ("requests", "spared", "prompt tokens", "cached", "output tokens", "USD"):
        table.add_column(name, justify="right")
    for name, task in estimate.tasks.items():
        cached = f"{task.cached_tokens / task.prompt_tokens:.0%}" if task.prompt_tokens else "-"
        table.add_row(
            name,
            f"{task.requests:,}",
            f"{task.duplicate_requests + task.reused_requests + task.near_duplicate_requests:,}",
            f"{task.prompt_tokens:,}",
            cached,
            f"{task.output_tokens:,}",
            "?" if task.usd is None else f"{task.usd.expected:.4f}",
        )
    return table


def _duration(seconds: Range) -> str:
    return f"{duration(seconds.expected)} ({duration(seconds.low)} to {duration(seconds.high)})"
