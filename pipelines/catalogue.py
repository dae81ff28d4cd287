"""Descriptions of the assets, for readers of the catalogue who have never seen the code."""

from __future__ import annotations

from docmill.data.layout import answers_glob
from docmill.ops.job import Job
from docmill.ops.tasks import AnyTask, Classify, Generate, Summarize, Translate

_COLUMNS = {
    "status": "ok, failed (something is wrong, see `error`) or skipped (there was nothing to ask).",
    "translation": "The translated text.",
    "label": "The most probable label.",
    "score": "Probability of the label among all labels.",
    "label_scores": "Every label with its probability, in the order of the job.",
    "summary": "The summary.",
    "answer": "The answer: text, or JSON where the task has a schema.",
    "error": "Why there is no answer: a fixed word, a colon, an explanation.",
    "prompt_tokens": "Tokens that the model read for this row.",
    "cached_tokens": "The part of them that the prefix cache spared.",
    "output_tokens": "Tokens that the model wrote for this row.",
    "finish_reason": "stop, or length where the answer was cut off.",
    "request_key": "Hash of everything the answer depends on; the same for the same question.",
    "model": "Model that answered.",
    "produced_at": "When the answer was written.",
    "near_duplicate_of": "Id of the document that was asked about in the place of this one, which is like it.",
}


_EACH = {"day": "a day", "hour": "an hour (UTC)"}


def describe_documents(job: Job) -> str:
    """Of the `documents` asset."""
    source = job.source
    per_day = (
        f", a folder `{source.partition_key}=...` {_EACH[source.partition_every]}"
        if source.partition_key
        else ""
    )
    return (
        f"{_sentence(job.description)}The documents as they came: Parquet files in `{source.uri}`{per_day}. "
        f"Each row is a document with its id in `{source.id_column}` and its text in `{source.text_column}`."
    )


def describe_task(job: Job, name: str) -> str:
    """Of a task's asset."""
    task = job.tasks[name]
    columns = ", ".join(f"`{column.name}`" for column in task.columns)
    return (
        f"{_sentence(task.description)}{_what(task)} One row for each document, in the same order: `status` is ok, "
        f"failed or skipped, `error` says why there is no answer, the answer is in {columns}. Answered by the model "
        f'`{job.model.source}`.\n\nRead all of it with `polars.scan_parquet("{answers_glob(job.output.uri, name)}")`.'
    )


def describe_report(job: Job) -> str:
    """Of the `report` asset."""
    priced = "" if job.prices.usd_per_hour else " (the job names no prices yet: `prices.usd_per_hour`)"
    return (
        f"What the last run of `{job.name}` did, how long it took and what it cost{priced}: rows by status and reason, "
        "tokens, seconds by stage, throughput and US dollars, for the run and for each task; with pictures in "
        "`report_page`."
    )


def describe_column(job: Job, column: str) -> str:
    """Of a column of an answer file; carried columns are the source's own."""
    if column == job.source.id_column:
        return "Id of the document."
    return _COLUMNS.get(column, "Copied from the document.")


def _what(task: AnyTask) -> str:
    match task:
        case Translate():
            return f"Each document translated into {task.target_language}."
        case Classify():
            return f"Each document sorted under one of {len(task.labels)} labels: {', '.join(task.labels)}."
        case Summarize():
            return f"Each document summed up in {task.language}."
        case Generate():
            return f"Each document with the answer to: {task.instruction}"


def _sentence(text: str) -> str:
    text = text.strip()
    return f"{text if text[-1] in '.!?' else text + '.'} " if text else ""
