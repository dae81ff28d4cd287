"""Parts to output files: each shard's answers in its row order, each file by one atomic write.

Done by the run that finds all units done. A file of a shard that could not be used stays as it was.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.dead_letters import DeadLetter, encode_dead_letters, read_dead_letters
from docmill.data.errors import StorageNotFound
from docmill.data.layout import Layout
from docmill.data.ledger import Done, Ledger
from docmill.data.manifest import AnswerFile
from docmill.data.plan import PlannedShard, Unit
from docmill.data.schemas import JOB_KEY
from docmill.data.shards import ShardWriter
from docmill.ops.report import FailedShard, TaskReport
from docmill.ops.tasks.task import Task
from docmill.ops.unit_answers import DEAD_LETTERS

SHARDS_AT_ONCE = 4
DONE_AT_ONCE = 1_000


@dataclass
class Assembled:
    """What lies in the output now."""

    reports: dict[str, TaskReport]
    files: dict[str, list[AnswerFile]]
    failed_shards: list[FailedShard] = field(default_factory=list)
    num_documents: int = 0  # of usable shards
    num_truncated: int = 0
    num_chunked: int = 0
    num_dead_letters: int = 0


def assemble(ledger: Ledger, tasks: Mapping[str, Task]) -> Assembled:
    """Write the output files of all shards, and the dead letters. Every unit must be done.

    Raises `StorageNotFound` where parts are gone because another run has done all this meanwhile.
    """
    view, plan = ledger.view(), ledger.plan
    by_shard: defaultdict[str, list[Unit]] = defaultdict(list)
    for unit in ledger.units(view):
        by_shard[unit.shard].append(unit)
    assembled = Assembled({name: TaskReport(kind=task.kind) for name, task in tasks.items()}, {})
    assembled.files = {name: [] for name in tasks}
    letters: list[DeadLetter] = []

    def write(shard: PlannedShard) -> tuple[PlannedShard, list[Done]]:
        units = sorted(by_shard[shard.name], key=lambda unit: unit.first_row)
        marks = list(_marks(ledger, units)) if shard.error is None else []
        if all(mark.error is None for mark in marks):
            for name in tasks if shard.error is None else ():
                _write_file(
                    ledger.layout.answers(name, shard.name), [mark.parts[name] for mark in marks], shard
                )
        return shard, marks

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        for shard, marks in pool.map(write, plan.shards):
            error = shard.error or next((mark.error for mark in marks if mark.error), None)
            if error is not None:
                assembled.failed_shards.append(FailedShard(shard=shard.name, error=error))
                continue
            _add(assembled, shard, marks)
            for mark in marks:
                if DEAD_LETTERS in mark.parts:
                    letters += read_dead_letters(mark.parts[DEAD_LETTERS])
    _write_dead_letters(ledger.layout, letters, tasks, assembled.failed_shards)
    assembled.num_dead_letters = len(letters)
    return assembled


def remove_stale(layout: Layout, job: str, tasks: Iterable[str], shards: list[PlannedShard]) -> None:
    """Delete this job's answer files of shards that the source no longer has; other people's files stay."""
    names = {shard.name for shard in shards}
    for task in tasks:
        for found in storage.list_shards(layout.answers_folder(task)):
            if found.name not in names and _job_of(found.uri) == job:
                storage.delete(found.uri)


def _marks(ledger: Ledger, units: list[Unit]) -> Iterable[Done]:
    for start in range(0, len(units), DONE_AT_ONCE):
        some = units[start : start + DONE_AT_ONCE]
        marks = ledger.read_done(unit.id for unit in some)
        if len(marks) < len(some):
            raise StorageNotFound(ledger.layout.internal_folder, "done marks are gone")
        yield from marks


def _write_file(uri: str, parts: list[str], shard: PlannedShard) -> None:
    writer: ShardWriter | None = None
    try:
        for part in parts:
            table = feather.read_table(io.BytesIO(storage.read_bytes(part)), memory_map=False)
            writer = writer or ShardWriter(uri, table.schema)
            for batch in table.to_batches():
                writer.write(batch)
        assert writer is not None, "a shard has at least one unit"
        assert writer.num_rows == shard.num_rows, f"{uri}: {writer.num_rows} rows of {shard.num_rows}"
        writer.commit()
    finally:
        if writer is not None:
            writer.discard()


def _add(assembled: Assembled, shard: PlannedShard, marks: list[Done]) -> None:
    assembled.num_documents += shard.num_rows
    for mark in marks:
        assembled.num_truncated += mark.figures["truncated"]
        assembled.num_chunked += mark.figures["chunked"]
        for name, figures in mark.figures["tasks"].items():
            add_report(assembled.reports[name], TaskReport.model_validate(figures))
    for files in assembled.files.values():
        files.append(AnswerFile(name=shard.name, rows=shard.num_rows, shard_version=shard.version))


def add_report(total: TaskReport, part: TaskReport) -> None:
    """Add a part of a task's figures to the total."""
    for name in ("rows", "ok", "failed", "skipped"):
        setattr(total.counts, name, getattr(total.counts, name) + getattr(part.counts, name))
    for name in ("prompt", "cached", "output"):
        setattr(total.tokens, name, getattr(total.tokens, name) + getattr(part.tokens, name))
    total.requests += part.requests
    total.truncated_answers += part.truncated_answers
    for reason, number in part.errors.items():
        total.errors[reason] = total.errors.get(reason, 0) + number


def _write_dead_letters(
    layout: Layout, letters: list[DeadLetter], tasks: Mapping[str, Task], failed_shards: list[FailedShard]
) -> None:
    """Those of other tasks, and of shards whose output stays, are kept. No dead letters, no file."""
    failed = {shard.shard for shard in failed_shards}
    kept = [
        letter
        for letter in read_dead_letters(layout.dead_letters)
        if letter.task not in tasks or letter.shard in failed
    ]
    replace_dead_letters(layout, kept + letters)


def replace_dead_letters(layout: Layout, letters: list[DeadLetter]) -> None:
    """Write all dead letters of the partition anew; none leave no file."""
    if letters:
        letters = sorted(letters, key=lambda letter: (letter.shard, letter.row, letter.task))
        storage.put_bytes(layout.dead_letters, encode_dead_letters(letters))
    else:
        storage.delete(layout.dead_letters)


def _job_of(uri: str) -> str | None:
    """The job that wrote an answer file; None for a file that is not docmill's."""
    with storage.open_input(uri) as stream:
        try:
            metadata = pq.read_schema(stream).metadata or {}
        except (pa.ArrowException, OSError, ValueError):
            return None
    return metadata.get(JOB_KEY, b"").decode() or None
