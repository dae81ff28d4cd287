"""Makes the plan of a partition: reads the length of every text once, and cuts the shards into work units.

Nothing is tokenised here and no engine is asked, so the estimates are rough: bytes of text stand for tokens, and a
nominal engine for the real one. They decide only how large a unit is, never what is answered.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import xxhash

from docmill.data.errors import SHARD_ERRORS
from docmill.data.plan import Plan, PlannedShard, Unit
from docmill.data.records import Document, Partition, Shard
from docmill.data.shards import ScannedBatch, ShardReader
from docmill.ops.job import Job
from docmill.ops.openings import common_opening
from docmill.ops.prepare import Prepare, PreparedText, prepare
from docmill.ops.report import PROMPT_TOKENS_PER_OUTPUT_TOKEN
from docmill.ops.sketches import Sketches
from docmill.ops.tasks.task import Task

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4.0
FRAME_TOKENS = 40.0  # of system prompt and instruction
NOMINAL_TOKENS_PER_SECOND = 20_000.0  # computed prompt tokens of an engine nobody has measured yet

# What a unit holds in memory while it is worked on, whatever its estimate.
MAX_UNIT_ROWS = 4_000
MAX_UNIT_BYTES = 32 << 20


@dataclass(frozen=True)
class Scanned:
    """What planning needs to know of a shard's rows: 32 bytes of each."""

    lengths: array[int]  # bytes of text
    text_keys: array[int]  # 0 where the text is null
    openings: array[int]  # see `utf8.text_keys`
    id_hashes: array[int] | None  # 0 where the id is null
    error: str | None = None


def scan_shards(job: Job, shards: list[Shard], sketches: Sketches | None = None) -> list[Scanned]:
    """Read all texts once, and sketch them where near-duplicates are looked for.

    Raises `StorageError` where the store does not answer.
    """
    return [_scan(job, shard, sketches) for shard in shards]


def make_plan(
    job: Job,
    partition: Partition,
    shards: list[Shard],
    scans: list[Scanned],
    tasks: Mapping[str, Task],
    *,
    fingerprint: str,
) -> Plan:
    """The plan of these shards; the same for the same files and settings. A shard that cannot be used is in it too."""
    duplicates = _duplicates(scans)
    planned: list[PlannedShard] = []
    units: list[Unit] = []
    for number, (shard, scan) in enumerate(zip(shards, scans, strict=True)):
        num_rows = len(scan.lengths)
        planned.append(
            PlannedShard(shard.name, shard.uri, shard.num_bytes, shard.version, num_rows, scan.error)
        )
        if scan.error is None:
            units += _units(shard, scan, duplicates.get(number, []), tasks, job.ledger.unit_seconds)
    return Plan(job.name, str(partition), list(tasks), fingerprint, planned, _by_opening(units))


def is_plan_of(plan: Plan, shards: list[Shard], *, fingerprint: str) -> bool:
    """Whether a stored plan is what `make_plan` would make now; one with a bad shard is made anew, to look again."""
    if plan.fingerprint != fingerprint or any(shard.error for shard in plan.shards):
        return False
    return [(shard.name, shard.uri, shard.version) for shard in plan.shards] == [
        (shard.name, shard.uri, shard.version) for shard in shards
    ]


def has_changed(plan: Plan, shards: list[Shard]) -> bool:
    """Whether shards were written or came after the plan was made; those that are gone have failed already."""
    planned = {(shard.name, shard.version) for shard in plan.shards}
    return any((shard.name, shard.version) not in planned for shard in shards)


def settings_fingerprint(job: Job, tasks: Mapping[str, Task], model_fingerprint: str) -> str:
    """16 hex digits that change when anything but the documents changes what a run writes."""
    parts = [f"{name}={job.answers_hash(name)}" for name in sorted(tasks)]
    # The job's name stands in every file, and a part is of one job.
    parts += [job.name, model_fingerprint, job.source.id_column, *job.source.carry]
    # Without a limit of its own, the tightest task of the job decides how long chunks are.
    parts += [task.model_dump_json() for task in job.tasks.values()] if not job.chunking.max_tokens else []
    return xxhash.xxh3_64_hexdigest("|".join(parts).encode())


def _scan(job: Job, shard: Shard, sketches: Sketches | None) -> Scanned:
    source = job.source
    wants_ids = job.prepare.duplicate_ids == "fail"
    num_sketched = sketches.num_rows if sketches is not None else 0
    lengths, text_keys, openings, id_hashes = array("q"), array("Q"), array("Q"), array("Q")
    try:
        with ShardReader(
            shard, id_column=source.id_column, text_column=source.text_column, carry=source.carry
        ) as reader:
            for batch in reader.scan(ids=wants_ids or sketches is not None, texts=sketches is not None):
                lengths.extend(batch.lengths)
                text_keys.extend(batch.text_keys)
                openings.extend(batch.openings)
                if sketches is not None:
                    sketches.add(_asked_texts(batch, job.prepare))
                if wants_ids and batch.ids is not None:
                    id_hashes.extend(
                        0 if doc_id is None else xxhash.xxh3_64_intdigest(doc_id.encode())
                        for doc_id in batch.ids
                    )
    except SHARD_ERRORS as error:
        log.warning("shard failed: %s", error)
        if sketches is not None:
            sketches.cut_back(num_sketched)
        return Scanned(array("q"), array("Q"), array("Q"), array("Q") if wants_ids else None, str(error))
    return Scanned(lengths, text_keys, openings, id_hashes if wants_ids else None)


def _asked_texts(batch: ScannedBatch, config: Prepare) -> list[str | None]:
    """What is asked about each row; None where nothing is."""
    assert batch.ids is not None
    assert batch.texts is not None
    asked: list[str | None] = []
    for doc_id, text in zip(batch.ids, batch.texts, strict=True):
        try:
            prepared = prepare(Document(doc_id, text, 0), config)
        except Exception as error:  # noqa: BLE001 - the row will fail, with its reason; see `ops.feed`
            log.debug("a document could not be prepared: %s", type(error).__name__)
            prepared = None
        asked.append(prepared.text if isinstance(prepared, PreparedText) else None)
    return asked


def _duplicates(scans: list[Scanned]) -> dict[int, list[int]]:
    """Rows whose id an earlier row has, by the shard's number. A shard that cannot be used has no rows here."""
    found: dict[int, list[int]] = {}
    hashes = [scan.id_hashes for scan in scans if scan.id_hashes is not None]
    if not any(hashes):
        return found
    import polars as pl  # half a second that Dagster's loading of the definitions does without

    every = pl.concat([pl.Series("id", some, dtype=pl.UInt64) for some in hashes])
    rows = (~every.is_first_distinct() & (every != 0)).arg_true().to_list()
    number = start = 0
    for row in rows:
        while row >= start + len(scans[number].lengths):
            start += len(scans[number].lengths)
            number += 1
        found.setdefault(number, []).append(row - start)
    return found


def _by_opening(units: list[Unit]) -> list[Unit]:
    """The same order, but those that begin alike stand where the first of them does."""
    first: dict[str, int] = {}
    places = [
        first.setdefault(unit.opening, place) if unit.opening else place for place, unit in enumerate(units)
    ]
    return [units[place] for place in sorted(range(len(units)), key=places.__getitem__)]


def _units(
    shard: Shard, scan: Scanned, duplicates: list[int], tasks: Mapping[str, Task], unit_seconds: float
) -> list[Unit]:
    seconds = [estimate_seconds(length, tasks) for length in scan.lengths]
    return [
        Unit(
            shard.name,
            shard.version,
            start,
            end - start,
            sum(seconds[start:end]),
            tuple(duplicates[bisect_left(duplicates, start) : bisect_left(duplicates, end)]),
            f"{opening:016x}" if (opening := common_opening(scan.openings[start:end])) else "",
        )
        for start, end in pairwise(_cut(scan.lengths, seconds, unit_seconds))
    ]


def estimate_seconds(num_bytes: int, tasks: Mapping[str, Task]) -> float:
    """Engine-seconds of one document: its prompt once, and each task's instruction and answer."""
    num_tokens = num_bytes / BYTES_PER_TOKEN
    work = num_tokens
    for task in tasks.values():
        work += FRAME_TOKENS + PROMPT_TOKENS_PER_OUTPUT_TOKEN * task.estimate_output_tokens(num_tokens)
    return work / NOMINAL_TOKENS_PER_SECOND


def _cut(lengths: array[int], seconds: list[float], unit_seconds: float) -> list[int]:
    """Where units begin and end: about equal ones of at most `unit_seconds`. An empty shard is one empty unit."""
    target = sum(seconds) / max(1.0, -(-sum(seconds) // unit_seconds))
    borders = [0]
    spent = held_bytes = 0.0
    for row, (num_bytes, row_seconds) in enumerate(zip(lengths, seconds, strict=True)):
        num_rows = row - borders[-1]
        full = spent + row_seconds / 2 > target or held_bytes + num_bytes > MAX_UNIT_BYTES
        if num_rows and (full or num_rows >= MAX_UNIT_ROWS):
            borders.append(row)
            spent = held_bytes = 0.0
        spent += row_seconds
        held_bytes += num_bytes
    return [*borders, len(lengths)]
