"""Parts to output files: each shard's answers in its row order, each file by one atomic write.

Done by the run that finds all units done. A file of a shard that could not be used stays as it was.
"""

from __future__ import annotations

import io
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.dead_letters import DeadLetter, change_dead_letters, read_dead_letters
from docmill.data.errors import StorageNotFound
from docmill.data.layout import Layout
from docmill.data.ledger import Done, Ledger
from docmill.data.manifest import AnswerFile
from docmill.data.plan import PlannedShard, Unit
from docmill.data.schemas import JOB_KEY
from docmill.data.shards import ROWS_PER_GROUP, ShardWriter
from docmill.ops.report import FailedShard, TaskReport
from docmill.ops.tasks.task import Task
from docmill.ops.token_bins import add_bins
from docmill.ops.unit_answers import DEAD_LETTERS

SHARDS_AT_ONCE = 4  # a store takes its time for each of their files
ROWS_AT_ONCE = ROWS_PER_GROUP  # of them all: each file under way holds a row group in memory


@dataclass
class Assembled:
    """What lies in the output now."""

    reports: dict[str, TaskReport]
    files: dict[str, list[AnswerFile]]
    failed_shards: list[FailedShard] = field(default_factory=list)
    num_documents: int = 0  # of usable shards
    num_truncated: int = 0
    num_chunked: int = 0
    dead_letters_by_reason: Counter[str] = field(default_factory=Counter)


class PartsGone(Exception):
    """Units are not done after all: their marks or parts are gone. The others' are as they were."""

    def __init__(self, unit_ids: list[str]):
        super().__init__(f"the answers of {len(unit_ids)} units are gone")
        self.unit_ids = unit_ids


class Overtaken(Exception):
    """Another run of these tasks has finished since this one began to write files."""


def assemble(
    ledger: Ledger, tasks: Mapping[str, Task], *, overtaken: Callable[[], bool] = lambda: False
) -> Assembled:
    """Write the output files of all shards, and the dead letters.

    Raises `PartsGone` where a unit is not done, or another run has finished and removed its parts meanwhile; and
    `Overtaken`, before the next file, where `overtaken` says so.
    """
    view, plan = ledger.view(), ledger.plan
    by_shard: defaultdict[str, list[Unit]] = defaultdict(list)
    for unit in ledger.units(view):
        by_shard[unit.shard].append(unit)
    assembled = Assembled({name: TaskReport(kind=task.kind) for name, task in tasks.items()}, {})
    assembled.files = {name: [] for name in tasks}
    letters: list[DeadLetter] = []

    room = _Room(ROWS_AT_ONCE)

    def write(shard: PlannedShard) -> tuple[PlannedShard, list[Done]]:
        units = sorted(by_shard[shard.name], key=lambda unit: unit.first_row)
        marks = _marks(ledger, units) if shard.error is None else []
        if shard.error is None and all(mark.error is None for mark in marks):
            for name in tasks:
                if overtaken():
                    raise Overtaken
                with room.take(min(shard.num_rows, ROWS_PER_GROUP)):
                    _write_file(ledger.layout.answers(name, shard.name), name, marks, shard)
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
                    of_unit = read_dead_letters(mark.parts[DEAD_LETTERS])
                    if not of_unit:
                        raise PartsGone([mark.unit_id])
                    letters += of_unit
    failed = {shard.shard for shard in assembled.failed_shards}
    # Those of other tasks, and of shards whose output stays, are kept.
    change_dead_letters(
        ledger.layout.dead_letters,
        lambda before: (
            [letter for letter in before if letter.task not in tasks or letter.shard in failed] + letters
        ),
    )
    assembled.dead_letters_by_reason = Counter(letter.reason for letter in letters)
    return assembled


class _Room:
    """Lets in so many rows at a time, whoever comes with them."""

    def __init__(self, num_rows: int):
        self._num_free = num_rows
        self._changed = threading.Condition()

    @contextmanager
    def take(self, num_rows: int) -> Iterator[None]:
        """Waits until there is room for these."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_free >= num_rows)
            self._num_free -= num_rows
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_rows
                self._changed.notify_all()


def reopen(ledger: Ledger, found: PartsGone) -> None:
    """Make units that are marked as done without their parts open again: those found, and all others like them."""
    files = storage.list_files(ledger.layout.parts_folder(ledger.plan.fingerprint))
    there = {file.uri for file in files if file.num_bytes}
    marks = ledger.read_done(ledger.view().done)
    incomplete = {mark.unit_id for mark in marks if not there.issuperset(mark.parts.values())}
    ledger.reopen(sorted(incomplete | set(found.unit_ids)))


def remove_stale(
    layout: Layout,
    job: str,
    tasks: Iterable[str],
    shards: list[PlannedShard],
    *,
    overtaken: Callable[[], bool] = lambda: False,
) -> None:
    """Delete this job's answer files of shards that the source no longer has; other people's files stay.

    Raises `Overtaken` as `assemble` does: the other run may know of more shards.
    """
    names = {shard.name for shard in shards}
    for task in tasks:
        for found in storage.list_shards(layout.answers_folder(task)):
            if found.name not in names and _job_of(found.uri) == job:
                if overtaken():
                    raise Overtaken
                storage.delete(found.uri)


def _marks(ledger: Ledger, units: list[Unit]) -> list[Done]:
    marks = ledger.read_done(unit.id for unit in units)
    if missing := {unit.id for unit in units} - {mark.unit_id for mark in marks}:
        raise PartsGone(sorted(missing))
    return marks


def _write_file(uri: str, task: str, marks: list[Done], shard: PlannedShard) -> None:
    writer: ShardWriter | None = None
    try:
        for mark in marks:
            try:
                content = storage.read_bytes(mark.parts[task])
                table = feather.read_table(io.BytesIO(content), memory_map=False)
            except (
                StorageNotFound,
                pa.ArrowException,
                OSError,
            ):  # or a local disk after a power cut has half of it
                raise PartsGone([mark.unit_id]) from None
            if table.num_rows != mark.figures["rows"]:  # the shard was another one for a while
                raise PartsGone([mark.unit_id])
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
        spared = getattr(total.spared_tokens, name) + getattr(part.spared_tokens, name)
        setattr(total.spared_tokens, name, spared)
        near = getattr(total.near_duplicate_tokens, name) + getattr(part.near_duplicate_tokens, name)
        setattr(total.near_duplicate_tokens, name, near)
    total.requests += part.requests
    total.duplicate_requests += part.duplicate_requests
    total.reused_requests += part.reused_requests
    total.near_duplicate_requests += part.near_duplicate_requests
    total.near_duplicate_rows += part.near_duplicate_rows
    total.truncated_answers += part.truncated_answers
    add_bins(total.prompt_token_bins, part.prompt_token_bins)
    add_bins(total.output_token_bins, part.output_token_bins)
    for reason, number in part.errors.items():
        total.errors[reason] = total.errors.get(reason, 0) + number


def _job_of(uri: str) -> str | None:
    """The job that wrote an answer file; None for a file that is not docmill's."""
    try:
        with storage.open_input(uri) as stream:
            metadata = pq.read_schema(stream).metadata or {}
    except (
        StorageNotFound,
        pa.ArrowException,
        OSError,
        ValueError,
    ):  # gone: another run has finished just now
        return None
    return metadata.get(JOB_KEY, b"").decode() or None
