"""How a compressed model was made, for people: what each task lost, what was gained, what was tried."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from docmill.engine.compressed_models import checkpoint_uri
from docmill.ops.compression.made import Compressed, config_of
from docmill.ops.compression.report import CompressionReport, Trial
from docmill.ops.job import Job
from docmill.pipelines.logs import without_secrets
from docmill.pipelines.progress_lines import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_LAYERS_NAMED = 8


def print_compressed(console: Console, job: Job, compressed: Compressed) -> None:
    """The table of tasks, and the lines below it."""
    console.print(_tasks(compressed.report))
    for line in (*figure_lines(compressed.report), *_place_lines(job, compressed)):
        console.print(line, soft_wrap=True)


def figure_lines(report: CompressionReport) -> list[str]:
    """Size, speed, what was tried; without the tasks."""
    before, after = report.before, report.after
    lines = []
    if after is not None and report.size_ratio is not None:
        sizes = f"{_size(after.num_bytes)} of {_size(before.num_bytes)}"
        lines.append(f"size       {report.size_ratio:.2f} of the source's weights ({sizes})")
        lines.append(
            f"speed      {ratio_text(report.speed_ratios)} of the source's tokens/s, by turns on this machine"
        )
        lines.append(
            f"memory     {_mean(after.peak_memory_mib):,.0f} MiB of the engine's process, source "
            f"{_mean(before.peak_memory_mib):,.0f}; loads in {_mean(after.load_seconds):.1f} s, source "
            f"{_mean(before.load_seconds):.1f}"
        )
    lines += [f"tried      {trial_text(trial)}" for trial in report.trials]
    left = [layer.group for layer in report.layers if layer.format is None]
    if left:
        more = f" and {len(left) - MOST_LAYERS_NAMED} more" if len(left) > MOST_LAYERS_NAMED else ""
        lines.append(f"unchanged  {', '.join(left[:MOST_LAYERS_NAMED])}{more}")
    figures = trial.figures if (trial := report.trial) else {}
    if "unseen_document_share" in figures:
        lines.append(
            f"unseen     {figures['unseen_share']:.2%} of the tokens, in {figures['unseen_document_share']:.1%} of the "
            "documents, of one half are not in the other: of another day about so many documents get longer, as such "
            "tokens are spelled in smaller pieces; `keep_texts` keeps more"
        )
    lines.append(
        f"judged     on {report.held_out_documents:,} documents of {report.partition}, made on "
        f"{report.calibration_documents:,} others, in {duration(report.seconds)}"
    )
    return lines


def tasks_markdown(report: CompressionReport) -> str:
    """The table of tasks, for Dagster's pages."""
    lines = [
        "| task | quality | source | compressed | loss | at most | same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in task_rows(report):
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def trial_text(trial: Trial) -> str:
    """One checkpoint: what it is, and what the task that suffered most lost."""
    if trial.trouble is not None:
        return f"{trial.setting}: {without_secrets(trial.trouble)}"
    bits = f", {trial.bits_per_weight:.1f} bits a weight" if trial.bits_per_weight is not None else ""
    worst = max(trial.tasks, key=lambda name: trial.tasks[name].most_drop)
    figures = trial.tasks[worst]
    return f"{trial.setting}{bits}: {worst} loses {figures.drop:.2%}, at most {figures.most_drop:.2%}"


def ratio_text(ratios: Sequence[float]) -> str:
    """`0.95 (0.93 to 0.97, 3 pairs)`."""
    if not ratios:
        return "-"
    pairs = f"{len(ratios)} pair{'s' * (len(ratios) > 1)}"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {pairs})"


def _tasks(report: CompressionReport) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    trial = report.trial
    title = f"{report.job}: {trial.setting if trial else 'not published'}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("task")
    for name in ("quality", "source", "compressed", "loss", "at most", "same answers"):
        table.add_column(name, justify="right")
    for name, values in task_rows(report):
        table.add_row(name, *values)
    return table


def task_rows(report: CompressionReport) -> Iterator[tuple[str, list[str]]]:
    """Of the table: each task with its cells."""
    for name, task in (report.trial.tasks if report.trial else {}).items():
        shares = (task.source, task.compressed, task.drop, task.most_drop, task.equal_share)
        yield name, [task.metric, *(f"{share:.2%}" for share in shares)]


def _place_lines(job: Job, compressed: Compressed) -> list[str]:
    config = config_of(job)
    lines = [f"model      {checkpoint_uri(config, compressed.model)}"]
    if not compressed.made:
        lines.insert(0, f"reused     made on {compressed.model.made_at:%Y-%m-%d}; --again makes it anew")
    return lines


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
