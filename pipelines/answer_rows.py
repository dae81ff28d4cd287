"""Answers beside their documents, for people: `docmill show`, and the previews in Dagster.

Answers and documents are joined by the name of the shard and the position in it, and the ids must agree: where the
source has changed since, a task that was not run again has no answer beside the new document, and where none was, the
old answers stand without a text. Memory holds a batch of one shard, whatever the size of the partition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat, zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.errors import ShardError, StorageNotFound
from docmill.data.layout import Layout, join, source_folder
from docmill.data.records import Partition, Shard, Status
from docmill.data.schemas import NEAR_DUPLICATE_OF
from docmill.data.shards import ShardReader
from docmill.data.utf8 import strings
from docmill.ops.job import Job

BATCH_ROWS = 256
SHOWN_COLUMNS = (
    "status",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "finish_reason",
    NEAR_DUPLICATE_OF,
)

# Everything that a terminal or a browser could take for a command: C0 and C1 controls, and marks that turn text round.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


@dataclass(frozen=True, slots=True)
class AnsweredDocument:
    """One row of a shard with its answers: task name -> columns, for the tasks that were asked about this document.

    `text` is None where the source has changed since all of them.
    """

    shard: str
    row: int
    doc_id: str | None
    text: str | None
    answers: dict[str, dict[str, Any]]

    @property
    def failed(self) -> bool:
        """Whether at least one task has no answer because something is wrong."""
        return any(answer["status"] == Status.FAILED for answer in self.answers.values())


def answer_text(task_columns: list[pa.Field], answer: dict[str, Any]) -> str:
    """An answer in a line: its first column, with the score if it has one; or why there is none.

    Behind it the id of the document that it is really about, where that is another.
    """
    if answer["status"] != Status.OK:
        return f"{answer['status']}: {answer['error']}"
    first = str(answer[task_columns[0].name])
    score, near = answer.get("score"), answer.get(NEAR_DUPLICATE_OF)
    line = first if score is None else f"{first} ({score:.2f})"
    return line if near is None else f"{line} [as {near}]"


def clip(text: str | None, *, max_chars: int) -> str:
    """The start of a text in one line, without characters that could act as commands."""
    if text is None:
        return ""
    line = " ".join(_UNPRINTABLE.sub(" ", text[: max_chars * 4]).split())
    return line if len(line) <= max_chars else line[: max_chars - 1].rstrip() + "…"


def read_answered_documents(
    job: Job, partition: Partition, *, tasks: list[str] | None = None, failed_only: bool = False
) -> Iterator[AnsweredDocument]:
    """Rows of the partition in the order of the source, as far as there are answers; read as they are asked for."""
    layout = Layout(job.output.uri, partition)
    names = tasks or list(job.tasks)
    files: dict[str, dict[str, Shard]] = {}  # shard -> task -> its answer file
    for task in names:
        for file in storage.list_shards(layout.answers_folder(task)):
            files.setdefault(file.name, {})[task] = file
    for shard in sorted(files):
        for document in _read_shard(job, partition, shard, files[shard]):
            if document.failed or not failed_only:
                yield document


def read_answer_schema(job: Job, partition: Partition, task: str) -> pa.Schema | None:
    """Schema of a task's answer files, or None where there are none."""
    for file in storage.list_shards(Layout(job.output.uri, partition).answers_folder(task)):
        with storage.open_input(file.uri) as stream:
            return pq.read_schema(stream)
    return None


def _read_shard(
    job: Job, partition: Partition, name: str, files: dict[str, Shard]
) -> Iterator[AnsweredDocument]:
    with ExitStack() as stack:
        texts = _texts(job, partition, name, stack)
        answers = {task: _answers(job, task, file, stack) for task, file in files.items()}
        rows = zip_longest(*answers.values())  # after a change of the source, files may differ in length
        for row, (columns, (doc_id, text)) in enumerate(zip(rows, texts, strict=False)):
            found = {
                task: answer for task, answer in zip(answers, columns, strict=True) if answer is not None
            }
            ids = [answer[job.source.id_column] for answer in found.values()]
            if doc_id not in ids:
                doc_id, text = ids[0], None
            same = {task: answer for task, answer in found.items() if answer[job.source.id_column] == doc_id}
            yield AnsweredDocument(name, row, doc_id, text, same)


def _texts(
    job: Job, partition: Partition, name: str, stack: ExitStack
) -> Iterator[tuple[str | None, str | None]]:
    """(id, text) of each row; for ever nothing where the shard is gone or cannot be read."""
    source = job.source
    uri = join(source_folder(source.uri, partition), name)
    try:
        shard = Shard(name, uri, num_bytes=0, version="")
        reader = stack.enter_context(
            ShardReader(shard, id_column=source.id_column, text_column=source.text_column, carry=[])
        )
        for batch in reader:
            yield from ((document.doc_id, document.text) for document in batch.documents)
    except (StorageNotFound, ShardError):
        pass
    yield from repeat((None, None))


def _answers(job: Job, task: str, file: Shard, stack: ExitStack) -> Iterator[dict[str, Any]]:
    """Rows of an answer file; none of one that was written before the job named another id column or kind of task."""
    stream = stack.enter_context(storage.open_input(file.uri))
    parquet = pq.ParquetFile(stream)
    own = [column.name for column in job.tasks[task].columns]
    wanted = [job.source.id_column, *SHOWN_COLUMNS, *own]
    columns = [name for name in wanted if name in parquet.schema_arrow.names]
    if not {job.source.id_column, "status", "error", own[0]} <= set(columns):
        return
    for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
        ids = strings(batch.column(job.source.id_column))
        rows = batch.drop_columns([job.source.id_column]).to_pylist()
        yield from (row | {job.source.id_column: doc_id} for row, doc_id in zip(rows, ids, strict=True))
