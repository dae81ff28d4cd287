"""A run's report for people: one table of tasks, then what went wrong, the time, the rate, the bill, the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.ops.report import Report
from docmill.pipelines.answer_rows import clip
from docmill.pipelines.progress_lines import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_report(console: Console, job: Job, partition: Partition, report: Report) -> None:
    """Show the report and where the files are."""
    layout = Layout(job.output.uri, partition)
    console.print(_tasks(report))
    for line in (*_troubles(report), *_figures(report)):
        console.print(line, soft_wrap=True)
    for task in report.tasks:
        console.print(f"answers    {layout.answers_folder(task)}", soft_wrap=True)
    console.print(f"report     {layout.report}", soft_wrap=True)


def _tasks(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=f"{report.job}, {report.partition}", title_justify="left")
    table.add_column("task")
    for name in (
        "rows",
        "ok",
        "failed",
        "skipped",
        "requests",
        "prompt tokens",
        "cached",
        "output tokens",
        "USD",
    ):
        table.add_column(name, justify="right")
    for name, task in report.tasks.items():
        counts, tokens = task.counts, task.tokens
        numbers = (counts.rows, counts.ok, counts.failed, counts.skipped, task.requests, tokens.prompt)
        table.add_row(
            name,
            *(f"{number:,}" for number in numbers),
            _share(tokens.cached, tokens.prompt),
            f"{tokens.output:,}",
            "?" if task.usd is None else f"{task.usd:.4f}",
        )
    return table


def _troubles(report: Report) -> list[str]:
    lines = []
    for name, task in report.tasks.items():
        if task.errors:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(task.errors.items()))
            lines.append(f"no answer  {name}: {reasons}")
        if task.truncated_answers:
            lines.append(f"cut off    {name}: {task.truncated_answers:,} answers at their token limit")
    lines += [f"bad shard  {clip(shard.error, max_chars=400)}" for shard in report.failed_shards]
    return lines


def _figures(report: Report) -> list[str]:
    seconds, rates, cost = report.seconds, report.rates, report.cost
    stages = ("model_load", "read", "prepare", "tokenise", "engine", "write")
    by_stage = ", ".join(f"{name.replace('_', ' ')} {getattr(seconds, name):.1f}" for name in stages)
    tokens_per_second = rates.prompt_tokens_per_second + rates.output_tokens_per_second
    lines = [
        f"time       {duration(seconds.wall)} ({by_stage})",
        f"rate       {rates.documents_per_second:,.1f} documents/s, {tokens_per_second:,.0f} tokens/s, of which "
        f"{rates.output_tokens_per_second:,.0f} written; engine busy {rates.engine_busy_share:.0%}",
    ]
    if cost.usd is None:
        return [
            *lines,
            f"cost       unknown: prices.usd_per_hour says nothing about {report.machine.device!r}",
        ]
    per_1000 = (
        f", {cost.usd_per_1000_documents:.4f} for 1,000 documents" if cost.usd_per_1000_documents else ""
    )
    return [*lines, f"cost       {cost.usd:.4f} USD at {cost.usd_per_hour:.2f} an hour{per_1000}"]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
