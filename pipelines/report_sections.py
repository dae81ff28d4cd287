"""The sections of a run's page: what of a report each shows, as pictures, a table and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docmill.ops.report import Report
from docmill.ops.token_bins import TokenBins, all_bins
from docmill.pipelines import report_charts as charts
from docmill.pipelines.logs import without_secrets
from docmill.pipelines.progress_lines import duration
from docmill.pipelines.report_charts import Picture
from docmill.pipelines.report_series import series_of
from docmill.pipelines.report_tables import (
    Table,
    estimate_table,
    reasons_table,
    runs_table,
    slowest_table,
    tasks_table,
    usd,
)
from docmill.pipelines.settings_text import settings_text

STAGES = ("planning", "model_load", "read", "prepare", "tokenise", "engine", "write", "assembling")


@dataclass(frozen=True)
class Section:
    """A heading with pictures, a table and a sentence below it, as far as there are any."""

    title: str
    note: str = ""
    pictures: Sequence[Picture] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Tile:
    """One figure at the head of the page."""

    name: str
    value: str
    note: str = ""


def tiles(report: Report) -> list[Tile]:
    """The figures that one looks for first."""
    rates, cost, answers = report.rates, report.cost, report.answers
    return [
        Tile("documents", f"{report.documents:,}", f"{report.shards:,} shards, {report.requests:,} requests"),
        Tile("failed answers", f"{answers.failed:,}", f"{answers.failed_share:.2%} of {answers.rows:,}"),
        Tile(
            "time",
            duration(report.seconds.wall),
            f"{report.workers:,} engine{'s' if report.workers > 1 else ''}",
        ),
        Tile(
            "documents/s", f"{rates.documents_per_second:,.1f}", f"engine full {rates.engine_full_share:.0%}"
        ),
        Tile(
            "USD", usd(cost.usd), f"at {cost.usd_per_hour:g} an hour" if cost.usd_per_hour is not None else ""
        ),
        Tile("USD for 1,000 documents", usd(cost.usd_per_1000_documents)),
    ]


def over_time(report: Report) -> Section:
    """Throughput, and how full the engine was."""
    title = "Over time"
    series = series_of(report)
    if series is None:
        return Section(title, note="The run was too short to be looked at more than a few times.")
    tokens = {
        "prompt tokens computed": series.prompt_tokens_per_second,
        "tokens written": series.output_tokens_per_second,
    }
    full = {"sequences running": series.running_share, "KV cache in use": series.kv_cache_share}
    return Section(
        title,
        pictures=[
            charts.over_time("Tokens a second", series.seconds, tokens, shown_as=_short),
            charts.over_time("How full the engine was", series.seconds, full, shown_as=_percent, highest=1.0),
        ],
    )


def seconds(report: Report) -> Section:
    """By stage, and what the engine waited for."""
    spent, idle = report.seconds, report.idle
    names = [stage for stage in STAGES if getattr(spent, stage) >= 0.05]
    pictures = []
    if names:
        shown = [name.replace("_", " ") for name in names]
        values: list[float | None] = [getattr(spent, name) for name in names]
        pictures.append(charts.bars("Seconds by stage", shown, {"seconds": values}, shown_as=_in_seconds))
    unused = {"starved": idle.starved, "draining": idle.draining, "writing": idle.writing}
    if spent.fed:
        full = {"full": max(0.0, spent.fed - sum(unused.values())), **unused}
        pictures.append(charts.shares("The engine while it was fed", full, shown_as=_in_seconds))
    return Section(
        "Where the time went",
        note="Stages are of all workers together and overlap. An engine with room is starved (reading, cleaning or "
        "tokenising was too slow), draining (nothing was left to ask) or writing (the store was too slow).",
        pictures=pictures,
    )


def money(report: Report) -> Section:
    """By task, beside what was expected of each."""
    names = [name for name, task in report.tasks.items() if task.usd is not None]
    series: dict[str, list[float | None]] = {"billed": [report.tasks[name].usd for name in names]}
    if report.estimate is not None:
        expected = [report.estimate.tasks.get(name) for name in names]
        if any(task is not None and task.usd is not None for task in expected):
            series["expected"] = [task.usd.expected if task and task.usd else None for task in expected]
    picture = charts.bars("USD by task", names, series, shown_as=usd) if names else None
    return Section(
        "Where the money went",
        note="" if names else f"The job has no price for the device {report.machine.device!r}.",
        pictures=[picture] if picture else [],
        table=tasks_table(report),
    )


def tokens(report: Report) -> Section:
    """How they spread over the answers."""
    pictures = []
    for kind, caption in (("prompt", "Tokens of the prompts"), ("output", "Tokens of the answers")):
        counts: dict[str, TokenBins] = {
            name: getattr(task, f"{kind}_token_bins") for name, task in report.tasks.items()
        }
        if bounds := all_bins(counts.values()):
            series = {name: [bins.get(bound, 0) for bound in bounds] for name, bins in counts.items()}
            labels = [_short(bound) for bound in bounds]
            pictures.append(charts.columns(caption, labels, series, shown_as=_short))
    note = (
        "Answers by their tokens; each column reaches to the next one's number."
        if pictures
        else "No answers."
    )
    return Section("Tokens", note=note, pictures=pictures)


def without_answer(report: Report) -> Section:
    """Why rows have none."""
    table, letters = reasons_table(report), report.dead_letters_by_reason
    if not table.rows:
        return Section("Without an answer", note="Every row has its answer.")
    pictures = []
    if letters:
        names = sorted(letters, key=lambda reason: -letters[reason])
        counts: list[float | None] = [letters[name] for name in names]
        pictures = [charts.bars("Dead letters by reason", names, {"requests": counts}, shown_as=_short)]
    return Section(
        "Without an answer",
        note="Rows by reason, failed and skipped. Dead letters are requests that failed for good.",
        pictures=pictures,
        table=table,
    )


def slowest(report: Report) -> Section:
    """Documents that the engine took longest over."""
    title = "Slowest documents"
    if not report.slowest:
        return Section(title, note="No request of this run reached the engine.")
    note = (
        "From a document's first request in the engine to its last answer; waiting for a place there counts."
    )
    return Section(title, note=note, table=slowest_table(report))


def estimate(report: Report) -> Section:
    """What `docmill plan` expected, and what came."""
    table = estimate_table(report)
    note = "" if table else "`docmill plan` was not asked before this run."
    return Section("Estimate and bill", note=note, table=table)


def runs(reports: Sequence[Report]) -> Section:
    """This run, the last of these, and those before it."""
    title = "The last runs"
    if len(reports) < 2:
        return Section(title, note="No earlier partition of this output is finished.")
    days = [report.partition.rpartition("=")[2] for report in reports]
    speed: list[float | None] = [report.rates.documents_per_second for report in reports]
    price = [report.cost.usd_per_1000_documents for report in reports]
    pictures = [charts.columns("Documents a second", days, {"documents/s": speed}, shown_as=_short)]
    if any(price):
        pictures.append(charts.columns("USD for 1,000 documents", days, {"USD": price}, shown_as=_short))
    return Section(title, pictures=pictures, table=runs_table(reports))


def what_ran(report: Report) -> Section:
    """Model, engine, machine and versions."""
    engine, machine = report.engine_settings, report.machine
    rows = {
        "started": f"{report.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "finished": f"{report.finished_at:%Y-%m-%d %H:%M:%S} UTC",
        "model": f"{report.model} ({report.model_fingerprint})",
        "engine": f"{report.engine}, context {report.max_model_len:,} tokens; {settings_text(engine.settings)}",
        "tuned": settings_text(engine.tuned),
        "device": f"{machine.device}, {engine.hardware}".rstrip(", "),
        "machine": f"{machine.cpu_count} cores, {machine.memory_gib:g} GiB, {machine.platform}",
        "driver's peak of memory": f"{report.peak_memory_mib:,.0f} MiB",
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "plan": report.plan,
    }
    facts = [[name, without_secrets(value)] for name, value in rows.items() if value]
    return Section("What ran", table=Table((), facts))


def _in_seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _short(number: float) -> str:
    """`950`, `1.2k`, `3.4M`: for axes."""
    number = float(f"{number:.3g}")  # first: 999.9 is 1k
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
