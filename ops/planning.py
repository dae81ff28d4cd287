"""Makes the plan of a partition: reads the length of every text once, and cuts the shards into work units.

Nothing is tokenised here and no engine is asked, so the estimates are rough: bytes of text stand for tokens, and a
nominal engine for the real one. They decide only how large a unit is, never what is answered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise

import xxhash

from docmill.data.errors import ShardError, StorageError
from docmill.data.plan import Plan, PlannedShard, Unit
from docmill.data.records import Partition, Shard
from docmill.data.shards import ShardReader
from docmill.ops.job import Job
from docmill.ops.prepare import SeenIds
from docmill.ops.report import PROMPT_TOKENS_PER_OUTPUT_TOKEN
from docmill.ops.tasks.task import Task

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4.0
FRAME_TOKENS = 40.0  # of system prompt and instruction
NOMINAL_TOKENS_PER_SECOND = 20_000.0  # computed prompt tokens of an engine nobody has measured yet

# What a unit holds in memory while it is worked on, whatever its estimate.
MAX_UNIT_ROWS = 4_000
MAX_UNIT_BYTES = 32 << 20


def make_plan(
    job: Job, partition: Partition, shards: list[Shard], tasks: Mapping[str, Task], *, fingerprint: str
) -> Plan:
    """The plan of these shards; the same for the same files and settings. A shard that cannot be used is in it too.

    Raises `StorageError` where the store does not answer.
    """
    seen = SeenIds() if job.prepare.duplicate_ids == "fail" else None
    planned: list[PlannedShard] = []
    units: list[Unit] = []
    for shard in shards:
        try:
            num_rows, of_shard = _plan_shard(job, shard, tasks, seen)
        except (ShardError, StorageError) as error:
            # A store that is down is not this shard's fault: the run ends, to be run again.
            if error.retryable:
                raise
            log.warning("shard failed: %s", error)
            if seen:
                seen.next_shard(forget=True)  # other shards may still have its ids
            planned.append(
                PlannedShard(shard.name, shard.uri, shard.num_bytes, shard.version, error=str(error))
            )
            continue
        if seen:
            seen.next_shard()
        planned.append(PlannedShard(shard.name, shard.uri, shard.num_bytes, shard.version, num_rows))
        units += of_shard
    return Plan(job.name, str(partition), list(tasks), fingerprint, planned, units)


def settings_fingerprint(job: Job, tasks: Mapping[str, Task], model_fingerprint: str) -> str:
    """16 hex digits that change when anything but the documents changes what a run writes."""
    parts = [f"{name}={job.settings_hash(name)}" for name in sorted(tasks)]
    parts += [model_fingerprint, job.source.id_column, *job.source.carry]
    # Without a limit of its own, the tightest task of the job decides how long chunks are.
    parts += [task.model_dump_json() for task in job.tasks.values()] if not job.chunking.max_tokens else []
    return xxhash.xxh3_64_hexdigest("|".join(parts).encode())


def _plan_shard(
    job: Job, shard: Shard, tasks: Mapping[str, Task], seen: SeenIds | None
) -> tuple[int, list[Unit]]:
    source = job.source
    lengths: list[int] = []
    duplicates: list[int] = []
    with ShardReader(
        shard, id_column=source.id_column, text_column=source.text_column, carry=source.carry
    ) as reader:
        for ids, some_lengths in reader.ids_and_lengths(ids=seen is not None):
            if seen and ids is not None:
                duplicates += [
                    len(lengths) + offset
                    for offset, doc_id in enumerate(ids)
                    if doc_id is not None and seen.seen_before(doc_id)
                ]
            lengths += some_lengths
    seconds = [_estimate(length, tasks) for length in lengths]
    borders = _cut(lengths, seconds, job.ledger.unit_seconds)
    units = []
    for start, end in pairwise(borders):
        doubled = tuple(row for row in duplicates if start <= row < end)
        units.append(Unit(shard.name, shard.version, start, end - start, sum(seconds[start:end]), doubled))
    return len(lengths), units


def _estimate(num_bytes: int, tasks: Mapping[str, Task]) -> float:
    """Engine-seconds of one document: its prompt once, and each task's instruction and answer."""
    num_tokens = num_bytes / BYTES_PER_TOKEN
    work = num_tokens
    for task in tasks.values():
        work += FRAME_TOKENS + PROMPT_TOKENS_PER_OUTPUT_TOKEN * task.estimate_output_tokens(num_tokens)
    return work / NOMINAL_TOKENS_PER_SECOND


def _cut(lengths: list[int], seconds: list[float], unit_seconds: float) -> list[int]:
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
