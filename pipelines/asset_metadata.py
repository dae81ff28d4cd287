"""What an asset shows in Dagster about its last run: counts, tokens, money, where the files are, and a few rows."""

from __future__ import annotations

import html
import re
from itertools import islice
from typing import Any

from dagster import (
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableColumnDep,
    TableColumnLineage,
    TableSchema,
)

from docmill.data.errors import DataError
from docmill.data.layout import Layout
from docmill.data.records import Partition, Shard
from docmill.data.schemas import NEAR_DUPLICATE_OF
from docmill.ops.job import Job
from docmill.ops.report import Report, TaskReport, work_shares
from docmill.pipelines import catalogue
from docmill.pipelines.answer_rows import answer_text, clip, read_answer_schema, read_answered_documents
from docmill.pipelines.asset_keys import DOCUMENTS, key_of
from docmill.pipelines.exit_codes import error_message
from docmill.pipelines.logs import without_secrets
from docmill.pipelines.report_text import incident_lines, tokens_computed_again

Metadata = dict[str, Any]

PREVIEW_ROWS = 5
PREVIEW_CHARS = 80
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:])")


def documents_metadata(shards: list[Shard]) -> Metadata:
    """Of the `documents` asset."""
    return {"shards": len(shards), "bytes": sum(shard.num_bytes for shard in shards)}


def task_metadata(job: Job, partition: Partition, report: Report, task: str) -> Metadata:
    """Of one task's asset."""
    layout, figures = Layout(job.output.uri, partition), report.tasks[task]
    row_count = "dagster/partition_row_count" if partition.key else "dagster/row_count"
    metadata: Metadata = {
        row_count: figures.counts.rows,
        "ok": figures.counts.ok,
        "failed": figures.counts.failed,
        "skipped": figures.counts.skipped,
        "failed_share": round(figures.counts.failed_share, 6),
        "errors": MetadataValue.json(figures.errors),
        "truncated_answers": figures.truncated_answers,
        "requests": figures.requests,
        "duplicate_requests": figures.duplicate_requests,
        "reused_requests": figures.reused_requests,
        "near_duplicate_requests": figures.near_duplicate_requests,
        "near_duplicate_rows": figures.near_duplicate_rows,
        "prompt_tokens": figures.tokens.prompt,
        "cached_tokens": figures.tokens.cached,
        "output_tokens": figures.tokens.output,
        "engine_seconds": round(report.engine_seconds * work_shares(report.tasks)[task], 2),
        "output": _place(layout.answers_folder(task)),
        "report": _place(layout.report),
        "report_page": _place(layout.report_page),
    }
    if figures.usd is not None:
        metadata["usd"] = round(figures.usd, 6)
        if figures.counts.rows:
            metadata["usd_per_1000_documents"] = round(figures.usd / figures.counts.rows * 1000, 6)
    return metadata | _columns(job, partition, task) | {"preview": _preview(job, partition, task)}


def report_metadata(job: Job, partition: Partition, report: Report) -> Metadata:
    """Of the `report` asset: the run as a whole."""
    layout = Layout(job.output.uri, partition)
    metadata: Metadata = {
        "documents": report.documents,
        "failed": report.answers.failed,
        "failed_share": round(report.answers.failed_share, 6),
        "shards": report.shards,
        "failed_shards": len(report.failed_shards),
        "requests": report.requests,
        "prompt_tokens": report.tokens.prompt,
        "cached_tokens": report.tokens.cached,
        "output_tokens": report.tokens.output,
        "documents_per_second": round(report.rates.documents_per_second, 2),
        "tokens_per_second": round(
            report.rates.prompt_tokens_per_second + report.rates.output_tokens_per_second, 1
        ),
        "output_tokens_per_second": round(report.rates.output_tokens_per_second, 1),
        "engine_busy_share": round(report.rates.engine_busy_share, 3),
        "engine_full_share": round(report.rates.engine_full_share, 3),
        "seconds": round(report.seconds.wall, 2),
        **{f"{stage}_seconds": round(seconds, 2) for stage, seconds in report.seconds if stage != "wall"},
        **{f"idle_{cause}_seconds": round(seconds, 2) for cause, seconds in report.idle},
        "paid_engine_seconds": round(report.engine_seconds, 2),
        "peak_memory_mib": round(report.peak_memory_mib, 1),
        "model": report.model,
        "model_fingerprint": report.model_fingerprint,
        "device": report.machine.device,
        "workers": report.workers,
        "dead_letters": report.dead_letters,
        "tokens_computed_again": tokens_computed_again(report),
        "earlier_worker_seconds": round(report.earlier_worker_seconds, 2),
        "incidents": len(report.incidents),
        "report": _place(layout.report),
        "report_page": _place(layout.report_page),
        "tasks": MetadataValue.md(_tasks_table(report)),
    }
    if report.cost.usd is not None:
        metadata["usd"] = round(report.cost.usd, 6)
    if report.estimate is not None and report.estimate.usd is not None:
        expected = report.estimate.usd.expected
        metadata["usd_expected"] = round(expected, 6)
        if report.cost.usd is not None and expected:
            metadata["usd_over_expected_share"] = round(report.cost.usd / expected - 1, 4)
    if report.cost.usd_per_1000_documents is not None:
        metadata["usd_per_1000_documents"] = round(report.cost.usd_per_1000_documents, 6)
    if report.near_duplicates is not None:
        metadata["near_duplicates"] = MetadataValue.json(report.near_duplicates.model_dump())
    if report.incidents:
        metadata["latest_incidents"] = MetadataValue.text("\n".join(incident_lines(report.incidents)))
    return metadata | failed_shards_metadata(report)


def failed_shards_metadata(report: Report) -> Metadata:
    """Which shards could not be used and why; nothing where all could."""
    if not report.failed_shards:
        return {}
    return {
        "failed_shard_errors": MetadataValue.json(
            {shard.shard: without_secrets(shard.error) for shard in report.failed_shards}
        )
    }


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table in which cells are plain text: no link, image or tag of a document comes alive in a browser."""
    lines = [header, ["---"] * len(header), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(uri: str) -> MetadataValue[Any]:
    return MetadataValue.url(uri) if "://" in uri else MetadataValue.path(uri)


def _columns(job: Job, partition: Partition, task: str) -> Metadata:
    """Their schema, and what they are made of.

    A finished run that fails for want of them would be retried, and paid for once more.
    """
    try:
        schema = read_answer_schema(job, partition, task)
    except DataError:
        return {}
    if schema is None:
        return {}
    columns = [
        TableColumn(
            field.name,
            str(field.type),
            catalogue.describe_column(job, field.name),
            TableColumnConstraints(nullable=field.nullable),
        )
        for field in schema
    ]
    lineage = _lineage(job, task, schema.names)
    return {"dagster/column_schema": TableSchema(columns), "dagster/column_lineage": lineage}


def _lineage(job: Job, task: str, columns: list[str]) -> TableColumnLineage:
    """From which column of the documents each comes: copies from their like, the answer from the text."""
    source, documents = job.source, key_of(job, DOCUMENTS)
    origins = {name: name for name in (source.id_column, *source.carry)}
    origins |= {field.name: source.text_column for field in job.tasks[task].columns}
    origins[NEAR_DUPLICATE_OF] = source.id_column
    return TableColumnLineage(
        {name: [TableColumnDep(documents, origins[name])] for name in columns if name in origins}
    )


def _preview(job: Job, partition: Partition, task: str) -> MetadataValue[Any]:
    """A few rows with the start of their text. Not worth failing a finished run for: then it says why there is none."""
    try:
        documents = list(islice(read_answered_documents(job, partition, tasks=[task]), PREVIEW_ROWS))
    except DataError as error:
        return MetadataValue.text(f"no preview: {error_message(error)}")
    rows = [
        [
            str(document.doc_id),
            clip(document.text, max_chars=PREVIEW_CHARS),
            clip(answer_text(job.tasks[task].columns, document.answers[task]), max_chars=PREVIEW_CHARS),
        ]
        for document in documents
    ]
    return MetadataValue.md(markdown_table([job.source.id_column, job.source.text_column, task], rows))


def _tasks_table(report: Report) -> str:
    header = [
        "task",
        "ok",
        "failed",
        "skipped",
        "requests",
        "prompt tokens",
        "cached",
        "output tokens",
        "USD",
    ]
    return markdown_table(header, [_task_row(name, task) for name, task in report.tasks.items()])


def _task_row(name: str, task: TaskReport) -> list[str]:
    counts, tokens = task.counts, task.tokens
    numbers = (
        counts.ok,
        counts.failed,
        counts.skipped,
        task.requests,
        tokens.prompt,
        tokens.cached,
        tokens.output,
    )
    return [name, *(f"{number:,}" for number in numbers), "" if task.usd is None else f"{task.usd:.4f}"]


def _plain(text: str) -> str:
    return html.escape(_MARKDOWN.sub(r"\\\1", text), quote=False)
