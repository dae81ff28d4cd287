"""A run's report as a page: `report.html` beside `report.json`, one file that asks for no other.

All that it shows is in the reports; of documents their ids, never their texts. It holds no script, and its own policy
forbids whatever a browser could still be made to load. `report_page.html` is the template, and its style.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.history import reports_before
from docmill.ops.job import Job
from docmill.ops.report import Report
from docmill.ops.token_bins import TokenBins, all_bins
from docmill.pipelines.logs import without_secrets
from docmill.pipelines.progress_lines import duration
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
from docmill.pipelines.report_text import replay_command, trouble_lines
from docmill.pipelines.settings_text import settings_text

if TYPE_CHECKING:
    from docmill.pipelines.report_charts import Picture

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("report_page.html")
MOST_EARLIER_RUNS = 13  # two weeks, this run included
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


def write_report_page(job: Job, partition: Partition, report: Report) -> None:
    """Make the page and put it beside the report. Never raises: a finished run does not fail for its pictures."""
    uri = Layout(job.output.uri, partition).report_page
    try:
        earlier = reports_before(job.output.uri, partition, most=MOST_EARLIER_RUNS)
        page = report_page(report, earlier, replay=replay_command(job, partition))
        storage.put_bytes(uri, page.encode())
    except Exception as error:
        log.warning("%s was not written: %s", uri, type(error).__name__, exc_info=True)


def report_page(report: Report, earlier: Sequence[Report] = (), *, replay: str = "docmill replay") -> str:
    """The page as HTML. `earlier`: reports of runs to compare it with, the latest last."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        tiles=_tiles(report),
        troubles=[_name_and_text(line) for line in trouble_lines(report, replay)],
        sections=[
            _over_time(report),
            _seconds(report),
            _money(report),
            _tokens(report),
            _without_answer(report),
            Section(
                "Slowest documents",
                note="From a document's first request in the engine to its last answer, a place to wait for included."
                if report.slowest
                else "No request of this run reached the engine.",
                table=slowest_table(report) if report.slowest else None,
            ),
            _estimate(report),
            _runs([*earlier, report]),
            Section("What ran", table=Table((), _what_ran(report))),
        ],
    )


def _tiles(report: Report) -> list[Tile]:
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


def _over_time(report: Report) -> Section:
    title = "Over time"
    series = series_of(report)
    if series is None:
        return Section(title, note="The run was too short to be looked at more than a few times.")
    from docmill.pipelines import report_charts as charts

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


def _seconds(report: Report) -> Section:
    from docmill.pipelines import report_charts as charts

    seconds, idle = report.seconds, report.idle
    names = [stage for stage in STAGES if getattr(seconds, stage) >= 0.05]
    stages = charts.bars(
        "Seconds by stage",
        [name.replace("_", " ") for name in names],
        {"seconds": [getattr(seconds, name) for name in names]},
        shown_as=lambda value: f"{value:,.1f} s",
    )
    unused = {"starved": idle.starved, "draining": idle.draining, "writing": idle.writing}
    full = {"full": max(0.0, seconds.fed - sum(unused.values())), **unused}
    fed = charts.shares("The engine while it was fed", full, shown_as=lambda value: f"{value:,.1f} s")
    return Section(
        "Where the time went",
        note="Stages are of all workers together and overlap. An engine with room is starved (reading, cleaning or "
        "tokenising was too slow), draining (nothing was left to ask) or writing (the store was too slow).",
        pictures=[*([stages] if names else []), *([fed] if seconds.fed else [])],
    )


def _money(report: Report) -> Section:
    from docmill.pipelines import report_charts as charts

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


def _tokens(report: Report) -> Section:
    from docmill.pipelines import report_charts as charts

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


def _without_answer(report: Report) -> Section:
    from docmill.pipelines import report_charts as charts

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


def _estimate(report: Report) -> Section:
    table = estimate_table(report)
    note = "" if table else "`docmill plan` was not asked before this run."
    return Section("Estimate and bill", note=note, table=table)


def _runs(reports: Sequence[Report]) -> Section:
    title = "The last runs"
    if len(reports) < 2:
        return Section(title, note="No earlier partition of this output is finished.")
    from docmill.pipelines import report_charts as charts

    days = [report.partition.rpartition("=")[2] for report in reports]
    speed: list[float | None] = [report.rates.documents_per_second for report in reports]
    price = [report.cost.usd_per_1000_documents for report in reports]
    pictures = [charts.columns("Documents a second", days, {"documents/s": speed}, shown_as=_short)]
    if any(price):
        pictures.append(charts.columns("USD for 1,000 documents", days, {"USD": price}, shown_as=_short))
    return Section(title, pictures=pictures, table=runs_table(reports))


def _what_ran(report: Report) -> list[list[str]]:
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
    return [[name, without_secrets(value)] for name, value in rows.items() if value]


def _name_and_text(line: str) -> tuple[str, str]:
    """Of a line of `report_text`."""
    name, _, text = line.partition("  ")
    return name, text.strip()


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _short(number: float) -> str:
    """`950`, `1.2k`, `3.4M`: for axes."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
