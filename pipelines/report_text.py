"""A run's report for people: one table of tasks, then what went wrong, the time, the rate, the bill, the files.

A line that would say "none" is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.engine.kernel_choice import NO_GPU, NOT_QUANTISED
from docmill.ops.job import Job
from docmill.ops.report import CompressedFigures, EngineSettings, IncidentReport, KernelReport, Report
from docmill.pipelines.answer_rows import clip
from docmill.pipelines.logs import without_secrets
from docmill.pipelines.near_duplicate_text import near_duplicate_lines
from docmill.pipelines.progress_lines import duration
from docmill.pipelines.settings_text import settings_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_INCIDENTS_SHOWN = 5
SHORTEST_IDLE = 0.05  # seconds worth a word


def print_report(console: Console, job: Job, partition: Partition, report: Report) -> None:
    """Show the report and where the files are."""
    layout = Layout(job.output.uri, partition)
    console.print(_tasks(report))
    for line in (*trouble_lines(report, replay_command(job, partition)), *_figures(report)):
        console.print(line, soft_wrap=True)
    for task in report.tasks:
        console.print(f"answers    {layout.answers_folder(task)}", soft_wrap=True)
    console.print(f"report     {layout.report}", soft_wrap=True)
    console.print(f"page       {layout.report_page}", soft_wrap=True)


def replay_command(job: Job, partition: Partition) -> str:
    """The command that asks a partition's failed requests again."""
    return f"docmill replay {job.name}" + (f" --partition {partition.value}" if partition.value else "")


def incident_lines(incidents: list[IncidentReport]) -> list[str]:
    """The latest deaths of engines that a run survived."""
    lines = []
    num_left_out = len(incidents) - MOST_INCIDENTS_SHOWN
    if num_left_out > 0:
        lines.append(f"incident   {num_left_out:,} more, the latest are")
    for incident in incidents[-MOST_INCIDENTS_SHOWN:]:
        what = f"engine {incident.kind.replace('_', ' ')} at {incident.at:%H:%M:%S} UTC"
        limits = ", ".join(f"{name} {number:,}" for name, number in incident.limits.items())
        action = clip(incident.action, max_chars=120) + (f" ({limits})" if limits else "")
        because = clip(without_secrets(incident.message), max_chars=120)
        lines.append(f"incident   {what}: {action}; {because}")
    return lines


def tokens_computed_again(report: Report) -> int:
    """Tokens that engines computed, in runs that did not end too, beyond those of the answers."""
    computed, needed = report.computed_tokens, report.tokens
    spared = report.spared_tokens
    return max(
        0, computed.prompt + computed.output + spared.prompt + spared.output - needed.prompt - needed.output
    )


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


def trouble_lines(report: Report, replay: str) -> list[str]:
    """What went wrong, a line for each kind, none where nothing did. `replay`: the command that asks again."""
    lines = []
    for name, task in report.tasks.items():
        if task.errors:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(task.errors.items()))
            lines.append(f"no answer  {name}: {reasons}")
        if task.truncated_answers:
            lines.append(f"cut off    {name}: {task.truncated_answers:,} answers at their token limit")
    lines += [
        f"bad shard  {clip(without_secrets(shard.error), max_chars=400)}" for shard in report.failed_shards
    ]
    if report.dead_letters:
        lines.append(
            f"dead       {report.dead_letters:,} requests failed for good; `{replay}` asks them again"
        )
    lines += incident_lines(report.incidents)
    if again := tokens_computed_again(report):
        answered = report.tokens.prompt + report.tokens.output
        share = f" ({again / answered:.1%} of the answers')" if answered else ""
        lines.append(f"again      {again:,} tokens were computed more than once{share}")
    if report.earlier_worker_seconds:
        lines.append(
            f"earlier    {duration(report.earlier_worker_seconds)} of workers in runs that did not end are in the cost"
        )
    return lines


def _figures(report: Report) -> list[str]:
    seconds, rates, cost = report.seconds, report.rates, report.cost
    stages = ("planning", "model_load", "read", "prepare", "tokenise", "engine", "write", "assembling")
    by_stage = ", ".join(f"{name.replace('_', ' ')} {getattr(seconds, name):.1f}" for name in stages)
    of_workers = f" of {report.workers} workers" if report.workers > 1 else ""
    tokens_per_second = rates.prompt_tokens_per_second + rates.output_tokens_per_second
    lines = [
        f"time       {duration(seconds.wall)}{of_workers} ({by_stage})",
        f"rate       {rates.documents_per_second:,.1f} documents/s, {tokens_per_second:,.0f} tokens/s, of which "
        f"{rates.output_tokens_per_second:,.0f} written; engine busy {rates.engine_busy_share:.0%}, "
        f"full {rates.engine_full_share:.0%}{_idle(report)}",
    ]
    if report.engine_settings.settings:
        lines.append(f"engine     {_engine(report.engine_settings)}")
    lines += kernel_lines(report.kernels)
    lines += compressed_lines(report.compressed)
    duplicates = sum(task.duplicate_requests for task in report.tasks.values())
    reused = sum(task.reused_requests for task in report.tasks.values())
    near = sum(task.near_duplicate_requests for task in report.tasks.values())
    if duplicates or reused or near:
        parts = [f"{duplicates:,} as duplicates"] * bool(duplicates)
        parts += [f"{reused:,} answered in earlier runs"] * bool(reused)
        parts += [f"{near:,} as near-duplicates"] * bool(near)
        lines.append(f"spared     {' and '.join(parts)} of {report.requests:,} requests")
    if report.near_duplicates is not None:
        lines += near_duplicate_lines(report.near_duplicates, ran=True)
    if cost.usd is None:
        return [
            *lines,
            f"cost       unknown: prices.usd_per_hour says nothing about {report.machine.device!r}",
        ]
    per_1000 = (
        f", {cost.usd_per_1000_documents:.4f} for 1,000 documents" if cost.usd_per_1000_documents else ""
    )
    return [
        *lines,
        f"cost       {cost.usd:.4f} USD at {cost.usd_per_hour:.2f} an hour{per_1000}",
        *_estimated(report),
    ]


def compressed_lines(compressed: CompressedFigures | None) -> list[str]:
    """What the model is to the one that the job names."""
    if compressed is None:
        return []
    worst = max(compressed.most_drops, key=lambda name: compressed.most_drops[name])
    speed = (
        ""
        if compressed.speed_ratio is None
        else f", {compressed.speed_ratio:.2f} of its tokens/s where it was made"
    )
    return [
        f"compressed {compressed.recipe} on {compressed.made_at:%Y-%m-%d} ({compressed.setting}): "
        f"{compressed.size_ratio:.2f} of the source's weights{speed}; {worst} loses {compressed.drops[worst]:.2%}, "
        f"at most {compressed.most_drops[worst]:.2%}"
    ]


def kernel_lines(kernels: Mapping[str, KernelReport]) -> list[str]:
    """Which of docmill's kernels ran, and of the others why not."""
    lines = [
        f"kernels    {op} in {kernel.num_places} layers, {kernel.num_calls:,} calls ({kernel.implementation})"
        for op, kernel in kernels.items()
        if kernel.num_places
    ]
    by_reason: dict[str, list[str]] = {}
    for op, kernel in kernels.items():
        if kernel.reason and kernel.reason not in (NO_GPU, NOT_QUANTISED):
            by_reason.setdefault(kernel.reason, []).append(op)
    return lines + [f"kernels    {', '.join(ops)}: off, {reason}" for reason, ops in by_reason.items()]


def _engine(engine: EngineSettings) -> str:
    """What it ran with, and what of it `docmill tune` has found."""
    tuned = "; tuned: " + ", ".join(engine.tuned) if engine.tuned else ""
    return settings_text(engine.settings) + tuned


def _estimated(report: Report) -> list[str]:
    """What had been expected, beside what came."""
    estimate, cost = report.estimate, report.cost
    if estimate is None or estimate.usd is None or not estimate.usd.expected or not cost.usd:
        return []
    over = cost.usd / estimate.usd.expected - 1
    usd, came = estimate.usd, "more" if over > 0 else "less"
    return [
        f"expected   {usd.expected:.4f} USD ({usd.low:.4f} to {usd.high:.4f}); it was {abs(over):.0%} {came}"
    ]


def _idle(report: Report) -> str:
    """What it waited for."""
    causes = [f"{cause} {seconds:.1f} s" for cause, seconds in report.idle if seconds >= SHORTEST_IDLE]
    return f" ({', '.join(causes)})" if causes else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
