"""A run's report as a page: `report.html` beside `report.json`, one file that asks for no other.

All that it shows is in the reports; of documents their ids, never their texts. It holds no script, and its own policy
forbids whatever a browser could still be made to load. `report_sections.py` says what is on it, `report_page.html` is
the template and its style.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from docmill.data import storage
from docmill.data.errors import StorageError
from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.compression.made import find_made
from docmill.ops.compression.report import CompressionReport
from docmill.ops.history import reports_before
from docmill.ops.job import Job
from docmill.ops.report import Report
from docmill.pipelines.report_text import replay_command, trouble_lines

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("report_page.html")
MOST_EARLIER_RUNS = 13  # two weeks, this run included


def write_report_page(job: Job, partition: Partition, report: Report) -> None:
    """Make the page and put it beside the report. Never raises: a finished run does not fail for its pictures."""
    try:
        earlier = reports_before(job.output.uri, partition, most=MOST_EARLIER_RUNS)
        made = find_made(job) if report.compressed is not None else None
        page = report_page(
            report,
            earlier,
            compression=made.report if made else None,
            replay=replay_command(job, partition),
        )
        storage.put_bytes(Layout(job.output.uri, partition).report_page, page.encode())
    except StorageError as error:
        log.warning("the report's page was not written: %s", error)
    except Exception as error:
        log.warning("the report's page was not made: %s", type(error).__name__, exc_info=True)


def report_page(
    report: Report,
    earlier: Sequence[Report] = (),
    *,
    compression: CompressionReport | None = None,
    replay: str = "docmill replay",
) -> str:
    """The page as HTML. `earlier`: reports of runs to compare it with, the latest last.

    `compression`: of the model that answered, where it was made by `model.compress`.
    """
    from jinja2 import Environment, StrictUndefined

    from docmill.pipelines import report_sections as sections  # brings Matplotlib: a third of a second
    from docmill.pipelines.report_compression import compressed_model

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        tiles=sections.tiles(report),
        troubles=[_name_and_text(line) for line in trouble_lines(report, replay)],
        sections=[
            sections.over_time(report),
            sections.seconds(report),
            sections.money(report),
            sections.tokens(report),
            sections.without_answer(report),
            sections.slowest(report),
            sections.estimate(report),
            sections.runs([*earlier, report]),
            *([compressed_model(compression)] if compression else []),
            sections.what_ran(report),
        ],
    )


def _name_and_text(line: str) -> tuple[str, str]:
    """Of a line of `report_text`."""
    name, _, text = line.partition("  ")
    return name, text.strip()
