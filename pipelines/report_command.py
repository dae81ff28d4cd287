"""`docmill report`: what a job's finished days did and cost, added up by task; and the same by day as a file."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from docmill.data import storage
from docmill.data.errors import StorageError
from docmill.data.finished import is_within, list_run_partitions
from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.daily_figures import TaskDay, as_frame, task_days
from docmill.ops.history import History, read_history
from docmill.ops.job import Job
from docmill.ops.partitions import list_partitions
from docmill.ops.totals import Totals, add_up, add_up_by_task
from docmill.pipelines.choices import choose_days
from docmill.pipelines.console import print_json, stdout_console
from docmill.pipelines.exit_codes import WrongUsage
from docmill.pipelines.job_files import load_job
from docmill.pipelines.progress_lines import duration

if TYPE_CHECKING:
    from rich.table import Table

MOST_DAYS_NAMED = 5


def report_command(
    job_name: str,
    *,
    partition_value: str | None,
    first: str | None,
    last: str | None,
    csv: str | None,
    parquet: str | None,
    as_json: bool,
) -> None:
    """Print the totals, and write the rows of each day and task where a file is asked for."""
    job = load_job(job_name)
    first, last = choose_days(job, partition_value, first, last)
    history = read_history(job.output.uri, first=first, last=last)
    if not history.reports:
        raise WrongUsage(_nothing(job, history, first, last))
    rows = task_days(history.reports.values())
    if csv is not None:
        storage.put_bytes(csv, as_frame(rows).write_csv().encode())
    if parquet is not None:
        storage.put_bytes(parquet, _as_parquet(rows))
    unfinished = _unfinished(job, history, first, last)
    if as_json:
        print_json(
            {
                "job": job.name,
                "days": [asdict(row) for row in rows],
                "tasks": {name: _as_json(total) for name, total in add_up_by_task(rows).items()},
                "total": _as_json(add_up(rows)),
                "not_finished": unfinished,
                "unreadable": [_name(partition) for partition in history.unreadable],
            }
        )
        return
    console = stdout_console()
    console.print(_table(job, rows))
    for line in _lines(job, history, rows, unfinished):
        console.print(line, soft_wrap=True)
    for uri in (csv, parquet):
        if uri is not None:
            console.print(f"written    {uri}", soft_wrap=True)


def _nothing(job: Job, history: History, first: str | None, last: str | None) -> str:
    """Why there is nothing to add up, and what to do."""
    if history.unreadable:
        uri = Layout(job.output.uri, history.unreadable[0]).report
        return f"{uri} is not there, or is of another version of docmill; run the partition again"
    finished = [_name(partition) for partition in read_history(job.output.uri).reports]
    there = f"; those that have one: {', '.join(finished[-MOST_DAYS_NAMED:])}" if finished else ""
    if first is not None and first == last:
        what, option = f"partition {first} has no finished run", f" --partition {first}"
    else:
        what = "no partition has a finished run" + (
            f" in these {job.source.period.name}s" if first or last else ""
        )
        option = f" --partition {job.source.period.example}" if job.source.partition_key else ""
    return f"{what}{there}. `docmill run {job.name}{option}` makes one, `docmill status` tells how far it is"


def _unfinished(job: Job, history: History, first: str | None, last: str | None) -> list[str]:
    """Values of partitions that the source has, or that were begun, without a finished run."""
    begun = {partition.value for partition in list_run_partitions(job.output.uri, first=first, last=last)}
    try:
        in_source = list_partitions(job)
    except StorageError:  # the bill can be read where the documents cannot
        in_source = []
    wanted = {
        value
        for value in {*in_source, *(value for value in begun if value is not None)}
        if is_within(value, first, last)
    }
    finished = {partition.value for partition in [*history.reports, *history.unreadable]}
    return sorted(wanted - finished)


def _lines(job: Job, history: History, rows: list[TaskDay], unfinished: list[str]) -> list[str]:
    """What there is to say beside the table."""
    lines = []
    if job.source.partition_key is not None:
        days = [_name(partition) for partition in history.reports]
        between = days[0] if len(days) == 1 else f"{len(days):,}, {days[0]} to {days[-1]}"
        lines.append(f"{f'{job.source.period.name}s':10} {between}")
    if unfinished:
        lines.append(f"missing    no finished run of {_named(unfinished)}")
    if history.unreadable:
        lines.append(f"unreadable {_named([_name(partition) for partition in history.unreadable])}")
    if unpriced := sorted({row.partition for row in rows if row.usd is None}):
        lines.append(f"no price   for the device of {_named(unpriced)}: see prices.usd_per_hour")
    total = add_up(rows)
    if total.over_estimate is not None:
        planned = {row.partition for row in rows if row.usd_expected is not None and row.usd is not None}
        lines.append(
            f"expected   {total.usd_expected:.4f} USD, of {len(planned):,} planned before; it was "
            f"{abs(total.over_estimate):.0%} {'more' if total.over_estimate > 0 else 'less'}"
        )
    if len(history.reports) == 1:
        (partition,) = history.reports
        page = Layout(job.output.uri, partition).report_page
        if storage.exists(page):
            lines.append(f"page       {page}")
    return lines


def _table(job: Job, rows: list[TaskDay]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=job.name, title_justify="left")
    table.add_column("task")
    for name in (
        "documents",
        "failed",
        "requests",
        "prompt tokens",
        "cached",
        "output tokens",
        "engine time",
        "USD",
        "for 1,000",
        "expected",
    ):
        table.add_column(name, justify="right")
    by_task = add_up_by_task(rows)
    for name, total in by_task.items():
        table.add_row(name, *_cells(total), end_section=name == [*by_task][-1])
    if len(by_task) > 1:
        table.add_row("all", *_cells(add_up(rows)))
    return table


def _cells(total: Totals) -> list[str]:
    cached = f"{total.cached_tokens / total.prompt_tokens:.0%}" if total.prompt_tokens else "-"
    return [
        f"{total.documents:,}",
        f"{total.failed:,} ({total.failed_share:.1%})" if total.failed else "0",
        f"{total.requests:,}",
        f"{total.prompt_tokens:,}",
        cached,
        f"{total.output_tokens:,}",
        duration(total.engine_seconds),
        *("?" if usd is None else f"{usd:.4f}" for usd in (total.usd, total.usd_per_1000_documents)),
        "-" if total.usd_expected is None else f"{total.usd_expected:.4f}",
    ]


def _as_json(total: Totals) -> dict[str, Any]:
    return asdict(total) | {"failed_share": total.failed_share, "over_estimate": total.over_estimate}


def _as_parquet(rows: list[TaskDay]) -> bytes:
    sink = io.BytesIO()
    as_frame(rows).write_parquet(sink)
    return sink.getvalue()


def _name(partition: Partition) -> str:
    return partition.value or str(partition)


def _named(days: Collection[str]) -> str:
    shown = [*days][:MOST_DAYS_NAMED]
    more = f" and {len(days) - len(shown):,} more" if len(days) > len(shown) else ""
    return ", ".join(shown) + more
