"""What a part is made of: one task's answers as rows, its figures, and the letters of requests that failed for good."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import asdict

import pyarrow as pa
import pyarrow.feather as feather

from docmill.data.dead_letters import DeadLetter
from docmill.data.records import NO_USAGE, Answer, Status
from docmill.data.schemas import NEAR_DUPLICATE_OF
from docmill.ops.dialogues import FailedRequest
from docmill.ops.report import TaskReport, now
from docmill.ops.tasks.task import Task
from docmill.ops.token_bins import add_to_bins


def answer_rows(
    carried: pa.RecordBatch, answers: list[Answer], task: Task, schema: pa.Schema, model: str
) -> pa.RecordBatch:
    """One task's answers beside the carried columns of the same rows."""
    values: dict[str, list[object]] = {
        "status": [answer.status for answer in answers],
        **{column.name: [answer.fields.get(column.name) for answer in answers] for column in task.columns},
        "error": [answer.error for answer in answers],
        "prompt_tokens": [answer.usage.num_prompt_tokens for answer in answers],
        "cached_tokens": [answer.usage.num_cached_tokens for answer in answers],
        "output_tokens": [answer.usage.num_output_tokens for answer in answers],
        "finish_reason": [answer.finish_reason for answer in answers],
        "request_key": [answer.request_key for answer in answers],
    }
    own = {name: pa.array(column, schema.field(name).type) for name, column in values.items()}
    for name, value in (("model", model), ("produced_at", now())):
        own[name] = pa.repeat(pa.scalar(value, schema.field(name).type), len(answers))
    if NEAR_DUPLICATE_OF in schema.names:
        ids = pa.array([answer.near_duplicate_of for answer in answers], pa.string())
        own[NEAR_DUPLICATE_OF] = ids.cast(schema.field(NEAR_DUPLICATE_OF).type)
    columns = [own[name] for name in schema.names[carried.num_columns :]]
    return pa.RecordBatch.from_arrays([*carried.columns, *columns], schema=schema)


def encode_rows(batches: list[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """The Arrow file of a part. In one piece: each piece of each column is compressed for itself."""
    sink = io.BytesIO()
    table = pa.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()
    feather.write_feather(table, sink, compression="zstd")
    return sink.getvalue()


def dead_letter(
    task_name: str, shard: str, row: int, doc_id: str | None, answer: Answer, failed: FailedRequest
) -> DeadLetter:
    """What is kept of a request that failed for good."""
    reason, _, message = (answer.error or "").partition(": ")
    return DeadLetter(
        task_name,
        shard,
        row,
        doc_id,
        failed.request_key,
        failed.request.prompt_token_ids,
        json.dumps(asdict(failed.request.sampling)),
        reason,
        message,
        failed.attempts,
        now(),
    )


def count_answers(report: TaskReport, answers: list[Answer]) -> None:
    """Add answers to a task's figures."""
    statuses: Counter[Status] = Counter()
    requests = duplicates = reused = near_requests = near_rows = truncated = 0
    tokens = spared = spared_by_near = NO_USAGE
    for answer in answers:
        statuses[answer.status] += 1
        requests += answer.num_requests
        truncated += answer.finish_reason == "length"
        tokens += answer.usage
        near_rows += answer.near_duplicate_of is not None
        if answer.spared is not NO_USAGE:
            duplicates += answer.num_duplicates
            reused += answer.num_reused
            near_requests += answer.num_near_duplicates
            spared += answer.spared
            spared_by_near += answer.spared_by_near_duplicates
        if answer.reason:
            report.errors[answer.reason] = report.errors.get(answer.reason, 0) + 1
    report.counts.rows += len(answers)
    report.counts.ok += statuses[Status.OK]
    report.counts.failed += statuses[Status.FAILED]
    report.counts.skipped += statuses[Status.SKIPPED]
    report.requests += requests
    report.duplicate_requests += duplicates
    report.reused_requests += reused
    report.near_duplicate_rows += near_rows
    report.near_duplicate_requests += near_requests
    report.truncated_answers += truncated
    answered = [answer.usage for answer in answers if answer.status is Status.OK]
    add_to_bins(report.prompt_token_bins, [usage.num_prompt_tokens for usage in answered])
    add_to_bins(report.output_token_bins, [usage.num_output_tokens for usage in answered])
    for total, usage in (
        (report.tokens, tokens),
        (report.spared_tokens, spared),
        (report.near_duplicate_tokens, spared_by_near),
    ):
        total.prompt += usage.num_prompt_tokens
        total.cached += usage.num_cached_tokens
        total.output += usage.num_output_tokens
