"""The tables of a run's page: cells are plain text, which the page escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docmill.ops.expected import Range
from docmill.ops.report import Report, work_shares
from docmill.pipelines.answer_rows import clip
from docmill.pipelines.progress_lines import duration

ID_CHARS = 80


@dataclass(frozen=True)
class Table:
    """A heading (none: rows are a name and what it is), and rows of which the first cell is the row's name."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tasks_table(report: Report) -> Table:
    """What each task did, took and cost."""
    shares = work_shares(report.tasks)
    rows = []
    for name, task in report.tasks.items():
        counts, tokens = task.counts, task.tokens
        spared = task.duplicate_requests + task.reused_requests + task.near_duplicate_requests
        numbers = (counts.ok, counts.failed, counts.skipped, task.requests, spared, tokens.prompt)
        rows.append(
            [
                name,
                *(f"{number:,}" for number in numbers),
                f"{tokens.cached / tokens.prompt:.0%}" if tokens.prompt else "-",
                f"{tokens.output:,}",
                f"{task.truncated_answers:,}",
                duration(report.engine_seconds * shares[name]),
                usd(task.usd),
            ]
        )
    header = (
        "task|ok|failed|skipped|requests|spared|prompt tokens|cached|output tokens|cut off|engine time|USD"
    )
    return Table(header.split("|"), rows)


def slowest_table(report: Report) -> Table:
    """The documents that the engine took longest over."""
    rows = [
        [
            clip(slow.doc_id, max_chars=ID_CHARS) if slow.doc_id is not None else "(no id)",
            slow.task,
            f"{slow.seconds:,.1f}",
            f"{slow.prompt_tokens:,}",
            f"{slow.output_tokens:,}",
            f"{clip(slow.shard, max_chars=ID_CHARS)}, row {slow.row:,}",
        ]
        for slow in report.slowest
    ]
    return Table("document|task|seconds|prompt tokens|output tokens|where".split("|"), rows)


def reasons_table(report: Report) -> Table:
    """Why rows have no answer, by task, and how many of the requests behind them are dead letters."""
    reasons = sorted(
        {*report.dead_letters_by_reason, *(name for task in report.tasks.values() for name in task.errors)}
    )
    rows = [
        [
            reason,
            *(f"{task.errors.get(reason, 0):,}" for task in report.tasks.values()),
            f"{report.dead_letters_by_reason.get(reason, 0):,}",
        ]
        for reason in reasons
    ]
    return Table(["reason", *report.tasks, "dead letters"], rows)


def estimate_table(report: Report) -> Table | None:
    """What `docmill plan` expected beside what came; None where it was not asked."""
    estimate = report.estimate
    if estimate is None:
        return None
    tokens = report.tokens
    counts = [
        ("requests", sum(task.requests for task in estimate.tasks.values()), report.requests),
        ("prompt tokens", estimate.tokens("prompt_tokens"), tokens.prompt - _spared(report, "prompt")),
        ("output tokens", estimate.tokens("output_tokens"), tokens.output - _spared(report, "output")),
    ]
    rows = [_compared("USD", estimate.usd, report.cost.usd, "{:,.4f}")] if estimate.usd is not None else []
    if estimate.engine_seconds is not None:
        rows.append(_compared("engine seconds", estimate.engine_seconds, report.engine_seconds, "{:,.1f}"))
    if estimate.wall_seconds is not None:
        rows.append(_compared("wall seconds", estimate.wall_seconds, report.seconds.wall, "{:,.1f}"))
    rows += [
        [name, f"{expected:,}", "", f"{came:,}", _off(came, expected)] for name, expected, came in counts
    ]
    return Table("|expected|between|came|off".split("|"), rows)


def runs_table(reports: Sequence[Report]) -> Table:
    """Runs beside each other, the last one first."""
    rows = []
    for report in reversed(reports):
        estimate = report.estimate.usd if report.estimate is not None else None
        rates = report.rates
        rows.append(
            [
                report.partition.rpartition("=")[2],
                f"{report.documents:,}",
                f"{report.answers.failed_share:.1%}",
                f"{rates.documents_per_second:,.1f}",
                f"{rates.prompt_tokens_per_second + rates.output_tokens_per_second:,.0f}",
                f"{rates.engine_full_share:.0%}",
                duration(report.seconds.wall),
                usd(report.cost.usd),
                usd(report.cost.usd_per_1000_documents),
                _off(report.cost.usd, estimate.expected) if estimate is not None else "-",
            ]
        )
    header = "run|documents|failed|documents/s|tokens/s|engine full|time|USD|for 1,000|off estimate"
    return Table(header.split("|"), rows)


def usd(amount: float | None) -> str:
    """`0.0123`; a question mark where the price is not known."""
    return "?" if amount is None else f"{amount:,.4f}"


def _compared(name: str, expected: Range, came: float | None, form: str) -> list[str]:
    between = f"{form.format(expected.low)} to {form.format(expected.high)}"
    shown = "?" if came is None else form.format(came)
    return [name, form.format(expected.expected), between, shown, _off(came, expected.expected)]


def _off(came: float | None, expected: float) -> str:
    return f"{came / expected - 1:+.0%}" if came is not None and expected else "-"


def _spared(report: Report, kind: str) -> int:
    return int(getattr(report.spared_tokens, kind))
