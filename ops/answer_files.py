"""Answers in, output files out: rows in the order of the shard, each file complete before anybody sees it.

Answers come in any order. A batch of rows is written when all its answers and all batches before it are there; what
waits for a slow document is bounded by `MAX_OPEN_ROWS`, on which the run stops taking new documents.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.manifest import AnswerFile
from docmill.data.records import Answer, Shard, Status
from docmill.data.schemas import JOB_KEY, answer_schema
from docmill.data.shards import ShardWriter
from docmill.ops.feed import BatchReady, ShardFailed, ShardOpened
from docmill.ops.prepare import Refusal
from docmill.ops.report import FailedShard, TaskReport, now
from docmill.ops.stages import Stages
from docmill.ops.tasks.task import Task

MAX_OPEN_ROWS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where an answer belongs: a row of a batch of a shard."""

    batch: _OpenBatch
    offset: int


@dataclass(slots=True, eq=False)
class _OpenBatch:
    shard: _OpenShard
    carried: pa.RecordBatch
    answers: dict[str, list[Answer | None]]  # task -> one for each row
    num_missing: int


@dataclass(slots=True, eq=False)
class _OpenShard:
    shard: Shard
    writers: dict[str, ShardWriter]
    reports: dict[str, TaskReport]
    batches: deque[_OpenBatch] = field(default_factory=deque)
    read_to_end: bool = False
    failed: bool = False
    num_rows: int = 0
    num_truncated: int = 0
    num_chunked: int = 0


class AnswerFiles:
    """The output files of one run. Use as a context manager: files not complete by then are thrown away."""

    def __init__(self, layout: Layout, tasks: Mapping[str, Task], *, job: str, model: str, stages: Stages):
        self.reports = _blank(tasks)
        self.failed_shards: list[FailedShard] = []
        self.files: dict[str, list[AnswerFile]] = {name: [] for name in tasks}
        self.num_documents = self.num_truncated = self.num_chunked = 0  # of finished shards
        self.num_rows_opened = self._num_answers = 0  # of all, for progress
        self.shards_opened: list[str] = []
        self._layout, self._tasks, self._job = layout, tasks, job
        self._model, self._stages = model, stages
        self._shards: dict[str, _OpenShard] = {}
        self._num_open_rows = 0

    @property
    def num_rows_done(self) -> int:
        """Rows answered, written or not; a row of which two of three tasks are answered counts two thirds."""
        return self._num_answers // len(self._tasks)

    @property
    def has_room(self) -> bool:
        """Whether more rows may be opened."""
        return self._num_open_rows < MAX_OPEN_ROWS

    def open_shard(self, event: ShardOpened) -> None:
        """Start the output files of one shard."""
        self.num_rows_opened += event.num_rows
        self.shards_opened.append(event.shard.name)
        writers = {
            name: ShardWriter(
                self._layout.answers(name, event.shard.name),
                answer_schema(event.carried_schema, task.columns, job=self._job),
            )
            for name, task in self._tasks.items()
        }
        self._shards[event.shard.name] = _OpenShard(event.shard, writers, _blank(self._tasks))

    def open_batch(self, event: BatchReady) -> list[Place]:
        """Make room for a batch's answers. Rows that are not asked about get theirs at once. Returns a place a row."""
        shard = self._shards[event.shard.name]
        num_rows = len(event.rows)
        answers: dict[str, list[Answer | None]] = {name: [None] * num_rows for name in self._tasks}
        batch = _OpenBatch(shard, event.carried, answers, num_rows * len(self._tasks))
        shard.batches.append(batch)
        shard.num_rows += num_rows
        shard.num_truncated += event.num_truncated
        shard.num_chunked += sum(isinstance(row, list) and len(row) > 1 for row in event.rows)
        self._num_open_rows += num_rows
        places = [Place(batch, offset) for offset in range(num_rows)]
        for place, row in zip(places, event.rows, strict=True):
            if isinstance(row, Refusal):
                for name in self._tasks:
                    self.add(place, name, Answer(row.status, error=str(row)))
        return places

    def add(self, place: Place, task_name: str, answer: Answer) -> None:
        """Take one answer; writes what is complete."""
        batch = place.batch
        assert batch.answers[task_name][place.offset] is None, "a row was answered twice"
        batch.answers[task_name][place.offset] = answer
        self._num_answers += 1
        batch.num_missing -= 1
        if batch.num_missing == 0:
            self._write(batch.shard)

    def end_shard(self, shard: Shard) -> None:
        """No more batches will come."""
        open_shard = self._shards[shard.name]
        open_shard.read_to_end = True
        self._write(open_shard)

    def fail_shard(self, event: ShardFailed) -> None:
        """Drop a shard that cannot be used. Answers still under way for it are ignored; old output stays as it was."""
        self.failed_shards.append(FailedShard(shard=event.shard.name, error=str(event.error)))
        shard = self._shards.pop(event.shard.name, None)
        if shard is None:
            return
        shard.failed = True
        self._num_open_rows -= sum(batch.carried.num_rows for batch in shard.batches)
        for writer in shard.writers.values():
            writer.discard()

    def remove_stale(self, shards: list[Shard]) -> None:
        """Delete this job's answer files of shards that the source no longer has; other people's files stay."""
        names = {shard.name for shard in shards}
        for task in self._tasks:
            for found in storage.list_shards(self._layout.answers_folder(task)):
                if found.name not in names and _job_of(found.uri) == self._job:
                    storage.delete(found.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._shards.values():
            for writer in shard.writers.values():
                writer.discard()

    def _write(self, shard: _OpenShard) -> None:
        """Write the complete batches at the shard's front; publish its files after the last."""
        if shard.failed:
            return
        with self._stages.measure("write"):
            while shard.batches and shard.batches[0].num_missing == 0:
                batch = shard.batches.popleft()
                self._num_open_rows -= batch.carried.num_rows
                for name, writer in shard.writers.items():
                    answers = [answer for answer in batch.answers[name] if answer is not None]
                    writer.write(self._rows(batch.carried, answers, self._tasks[name], writer.schema))
                    _count(shard.reports[name], answers)
            if shard.read_to_end and not shard.batches:
                self._publish(shard)

    def _publish(self, shard: _OpenShard) -> None:
        for name, writer in shard.writers.items():
            writer.commit()
            writer.discard()
            self.files[name].append(
                AnswerFile(name=shard.shard.name, rows=writer.num_rows, shard_version=shard.shard.version)
            )
            _add(self.reports[name], shard.reports[name])
        self.num_documents += shard.num_rows
        self.num_truncated += shard.num_truncated
        self.num_chunked += shard.num_chunked
        del self._shards[shard.shard.name]

    def _rows(
        self, carried: pa.RecordBatch, answers: list[Answer], task: Task, schema: pa.Schema
    ) -> pa.RecordBatch:
        num_rows = len(answers)
        values: dict[str, list[object]] = {
            "status": [answer.status.value for answer in answers],
            **{
                column.name: [answer.fields.get(column.name) for answer in answers] for column in task.columns
            },
            "error": [answer.error for answer in answers],
            "prompt_tokens": [answer.usage.num_prompt_tokens for answer in answers],
            "cached_tokens": [answer.usage.num_cached_tokens for answer in answers],
            "output_tokens": [answer.usage.num_output_tokens for answer in answers],
            "finish_reason": [answer.finish_reason for answer in answers],
            "request_key": [answer.request_key for answer in answers],
            "model": [self._model] * num_rows,
            "produced_at": [now()] * num_rows,
        }
        own = [pa.array(column, schema.field(name).type) for name, column in values.items()]
        return pa.RecordBatch.from_arrays([*carried.columns, *own], schema=schema)


def _job_of(uri: str) -> str | None:
    """The job that wrote an answer file; None for a file that is not docmill's."""
    with storage.open_input(uri) as stream:
        try:
            metadata = pq.read_schema(stream).metadata or {}
        except (pa.ArrowException, OSError, ValueError):
            return None
    return metadata.get(JOB_KEY, b"").decode() or None


def _blank(tasks: Mapping[str, Task]) -> dict[str, TaskReport]:
    return {name: TaskReport(kind=task.kind) for name, task in tasks.items()}


def _count(report: TaskReport, answers: list[Answer]) -> None:
    statuses = Counter(answer.status for answer in answers)
    report.counts.rows += len(answers)
    report.counts.ok += statuses[Status.OK]
    report.counts.failed += statuses[Status.FAILED]
    report.counts.skipped += statuses[Status.SKIPPED]
    report.truncated_answers += sum(answer.finish_reason == "length" for answer in answers)
    report.tokens.prompt += sum(answer.usage.num_prompt_tokens for answer in answers)
    report.tokens.cached += sum(answer.usage.num_cached_tokens for answer in answers)
    report.tokens.output += sum(answer.usage.num_output_tokens for answer in answers)
    for reason, number in Counter(answer.reason for answer in answers if answer.reason).items():
        report.errors[reason] = report.errors.get(reason, 0) + number


def _add(total: TaskReport, part: TaskReport) -> None:
    for name in ("rows", "ok", "failed", "skipped"):
        setattr(total.counts, name, getattr(total.counts, name) + getattr(part.counts, name))
    for name in ("prompt", "cached", "output"):
        setattr(total.tokens, name, getattr(total.tokens, name) + getattr(part.tokens, name))
    total.truncated_answers += part.truncated_answers
    for reason, number in part.errors.items():
        total.errors[reason] = total.errors.get(reason, 0) + number
