"""What a partition will cost before it runs. Where nothing has been measured yet, `ops.probe` comes first.

    shards --every text once--> duplicates, texts that finished runs know
           --at most MAX_COUNTED_ROWS of them tokenised, evenly--> requests, tokens (`dry_run`)
           --profile: what an engine's steps cost, tokens an answer--> hours and money, with a range

No engine is started.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmill.data import storage
from docmill.data.errors import SHARD_ERRORS
from docmill.data.layout import Layout
from docmill.data.manifest import read_manifest
from docmill.data.plan import Plan
from docmill.data.records import Partition, Shard
from docmill.data.shards import ShardReader
from docmill.engine.model_files import context_of
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.vllm_settings import block_tokens
from docmill.ops import representatives, reuse
from docmill.ops.answer_lengths import AnswerLengths
from docmill.ops.chunking import Chunk
from docmill.ops.dry_run import Counted, DryRun
from docmill.ops.expected import Estimate, Range, TaskEstimate
from docmill.ops.expected_seconds import engine_seconds
from docmill.ops.expected_steps import ExpectedRequest
from docmill.ops.feed import DocumentCutter
from docmill.ops.job import Job
from docmill.ops.near_figures import NearDuplicates
from docmill.ops.partition_job import check_owner, choose_tasks, model_fingerprint_of
from docmill.ops.partitions import find_shards
from docmill.ops.planning import Scanned, make_plan, scan_shards, settings_fingerprint
from docmill.ops.prepare import Refusal
from docmill.ops.profile import EngineProfile, Profile, find_engine, read_profile
from docmill.ops.prompts import Prompts
from docmill.ops.recent_answers import num_recent_texts
from docmill.ops.report import now
from docmill.ops.stages import Stages
from docmill.ops.tasks.task import Task
from docmill.ops.tuned_engines import possible_settings
from docmill.ops.worker import max_chunk_tokens

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_COUNTED_ROWS = 20_000


def estimate_partition(
    job: Job,
    partition: Partition,
    *,
    tasks: list[str] | None = None,
    tokenizer: ModelTokenizer | None = None,
) -> Estimate:
    """Count what a run would ask, and price it by the job's profile. Stores it for the report to compare with.

    Without a profile hours and money are None: see `probe`. Raises what `run_partition` raises for a job, a source or
    an output that cannot be used.
    """
    chosen = choose_tasks(job, tasks)
    storage.check_reachable(job.source.uri)
    shards = find_shards(job, partition)
    layout = Layout(job.output.uri, partition)
    storage.check_writable(layout.internal_folder)
    check_owner(job, read_manifest(layout.manifest))
    model_fingerprint = model_fingerprint_of(job)
    settings = settings_fingerprint(job, chosen, model_fingerprint)
    started = time.monotonic()
    with representatives.sketches_for(job) as sketches:
        scans = scan_shards(job, shards, sketches)
        plan = make_plan(job, partition, shards, scans, chosen, fingerprint=settings)
        near = representatives.look(job, layout, plan, chosen, model_fingerprint, sketches, scans)
    planning_seconds = time.monotonic() - started  # a run does the same
    profile = read_profile(job)
    engine = find_engine(profile, job, model_fingerprint, possible_settings(job, model_fingerprint))
    known = {
        name: reuse.known_texts(job, layout, key)
        for name in chosen
        for key in reuse.task_keys(job, [name], model_fingerprint)
    }
    step = max(1, -(-plan.num_documents // MAX_COUNTED_ROWS))
    counter = _Counter(job, chosen, tokenizer or ModelTokenizer(job.model), profile, engine)
    represented = near.groups.rows if near is not None and job.takes_answers_of_near_duplicates else ()
    counter.count(
        shards, scans, plan, _sample(scans, known, represented, step=step, reach=_reach(job, plan, chosen))
    )
    scale = plan.num_documents / max(1, counter.num_rows)
    priced = _priced(job, counter, engine, profile, scale=scale, planning_seconds=planning_seconds)
    estimate = Estimate(
        job=job.name,
        partition=str(partition),
        made_at=now(),
        plan=plan.id,
        documents=plan.num_documents,
        counted_documents=counter.num_rows,
        shards=len(shards),
        failed_shards=sum(scan.error is not None for scan in scans),
        not_asked_documents=round(counter.num_not_asked * scale),
        duplicate_documents=round(counter.num_duplicates * scale),
        reused_documents=round(counter.num_reused * scale),
        near_duplicates=_near_figures(near.figures, priced) if near is not None else None,
        tasks=priced.tasks,
        device=engine.device if engine else None,
        measured_at=engine.measured_at if engine else None,
        engines=_num_engines(job),
        engine_seconds=priced.engine_seconds,
        wall_seconds=priced.wall_seconds,
        usd_per_hour=priced.usd_per_hour,
        usd=priced.usd,
    )
    storage.put_bytes(layout.estimate, estimate.model_dump_json(indent=1).encode())
    return estimate


def _near_figures(figures: NearDuplicates, priced: _Priced) -> NearDuplicates:
    """With their price: of what the engines compute, since the rest is paid with or without them."""
    if priced.usd_per_hour is None or priced.busy_seconds is None:
        return figures
    share = figures.work_share
    if figures.reuse == "answers":  # what is spared is no part of what is left
        share /= max(1 - share, 1e-9)
    return figures.model_copy(update={"usd": priced.busy_seconds * share / 3600 * priced.usd_per_hour})


def _reader(job: Job, shard: Shard) -> ShardReader:
    source = job.source
    return ShardReader(shard, id_column=source.id_column, text_column=source.text_column, carry=[])


@dataclass(frozen=True, slots=True)
class _Row:
    """What is known of a row that is counted, before it is read."""

    duplicate: bool  # an earlier row that a run will still remember has the same text
    known: frozenset[str]  # tasks that finished runs have answered about its text
    represented: bool  # it takes the answers of another row, which it is like


def _reach(job: Job, plan: Plan, tasks: Collection[str]) -> int:
    """How many rows before a duplicate its like may stand, to be still in the memory of the worker that has it."""
    reach = num_recent_texts(len(tasks))
    if _num_engines(job) == 1 or not plan.units:
        return reach
    return min(reach, plan.num_documents // len(plan.units) // 2)  # further away, another worker may have it


def _sample(
    scans: list[Scanned],
    known: Mapping[str, pl.Series],
    represented: Sequence[int] | NDArray[np.int64],
    *,
    step: int,
    reach: int,
) -> dict[int, _Row]:
    """Every `step`-th row of the partition, by its number in it."""
    import polars as pl

    keys = pl.concat([pl.Series("key", scan.text_keys, dtype=pl.UInt64) for scan in scans])
    rows = (
        pl.DataFrame({"key": keys})
        .with_row_index("row")
        .with_columns(distance=pl.col("row") - pl.col("row").shift(1).over("key"))
        .filter(pl.col("row") % step == 0)
        .with_columns(
            (pl.col("distance").fill_null(reach + 1) <= reach).alias("duplicate"),
            pl.col("row").is_in(pl.Series(represented, dtype=pl.UInt32).implode()).alias("represented"),
            *(pl.col("key").is_in(texts.implode()).alias(f"known {name}") for name, texts in known.items()),
        )
    )
    return {
        row["row"]: _Row(
            row["duplicate"] and row["key"] != 0,
            frozenset(name for name in known if row[f"known {name}"] and row["key"] != 0),
            row["represented"],
        )
        for row in rows.iter_rows(named=True)
    }


class _Counter:
    """Counts the requests of a sample of a partition's rows."""

    def __init__(
        self,
        job: Job,
        tasks: Mapping[str, Task],
        tokenizer: ModelTokenizer,
        profile: Profile,
        engine: EngineProfile | None,
    ):
        self.num_rows = self.num_not_asked = self.num_duplicates = self.num_reused = 0
        self.counted = {name: Counted() for name in tasks}
        self.reused_requests = dict.fromkeys(tasks, 0)
        self.near_duplicate_requests = dict.fromkeys(tasks, 0)
        self._job = job
        prompts = Prompts(tokenizer, job.system_prompt)
        known = {name: profile.lengths.get(job.settings_hash(name)) for name in tasks}
        learned = {name: (found.estimated, found.written) for name, found in known.items() if found}
        max_model_len = engine.max_model_len if engine else job.engine.max_model_len or context_of(job.model)
        on_cpu = job.engine.device == "cpu" or engine is None or engine.device == "cpu"
        self._cutter = DocumentCutter(job, tokenizer, max_chunk_tokens(job, prompts, max_model_len), Stages())
        self._dry = DryRun(
            tasks,
            prompts,
            AnswerLengths(tasks, learned),
            block_tokens=block_tokens(job.engine, on_cpu=on_cpu),
        )

    @property
    def requests(self) -> list[ExpectedRequest]:
        """What an engine would answer."""
        return self._dry.requests

    def count(
        self, shards: list[Shard], scans: list[Scanned], plan: Plan, sample: Mapping[int, _Row]
    ) -> None:
        """The rows of the sample."""
        duplicate_ids: dict[str, set[int]] = defaultdict(set)
        for unit in plan.units:
            duplicate_ids[unit.shard].update(unit.duplicate_rows)
        offset = 0
        for shard, scan in zip(shards, scans, strict=True):
            if scan.error is None:
                try:
                    self._count(shard, offset, duplicate_ids[shard.name], sample)
                except SHARD_ERRORS as error:  # a run fails this shard too
                    log.warning("shard not counted: %s", error)
            offset += len(scan.lengths)

    def _count(self, shard: Shard, offset: int, duplicate_ids: set[int], sample: Mapping[int, _Row]) -> None:
        with _reader(self._job, shard) as reader:
            for batch in reader:
                documents = [document for document in batch.documents if offset + document.row in sample]
                rows, _ = self._cutter.cut(documents, duplicates=duplicate_ids)
                for document, row in zip(documents, rows, strict=True):
                    self.num_rows += 1
                    if isinstance(row, Refusal):
                        self.num_not_asked += 1
                    else:
                        self._add(sample[offset + document.row], row)

    def _add(self, row: _Row, chunks: list[Chunk]) -> None:
        if row.represented:  # by a row with the same answers, for what a run asks in its place
            for name, counted in self._dry.document(chunks, spared=self.counted.keys()).items():
                self.counted[name].add(counted)
                self.near_duplicate_requests[name] += counted.spared_requests
            return
        reused = len(row.known) == len(self.counted)
        self.num_reused += reused
        self.num_duplicates += row.duplicate and not reused
        spared = self.counted.keys() if row.duplicate else row.known
        for name, counted in self._dry.document(chunks, spared=spared).items():
            self.counted[name].add(counted)
            if name in row.known:
                self.reused_requests[name] += counted.spared_requests


def _priced(
    job: Job,
    counter: _Counter,
    engine: EngineProfile | None,
    profile: Profile,
    *,
    scale: float,
    planning_seconds: float,
) -> _Priced:
    """What was counted, for all rows, and what it takes."""
    tasks: dict[str, TaskEstimate] = {}
    for name, counted in counter.counted.items():
        reused, near = counter.reused_requests[name], counter.near_duplicate_requests[name]
        tasks[name] = TaskEstimate(
            kind=job.tasks[name].kind,
            requests=round(counted.requests * scale),
            duplicate_requests=round((counted.spared_requests - reused - near) * scale),
            reused_requests=round(reused * scale),
            near_duplicate_requests=round(near * scale),
            prompt_tokens=round(counted.prompt_tokens * scale),
            cached_tokens=round(counted.cached_tokens * scale),
            output_tokens=round(counted.output_tokens * scale),
        )
    if engine is None:
        return _Priced(tasks, None, None, None, None, None)
    unknown = {
        name
        for name, task in tasks.items()
        if task.kind != "classify" and job.settings_hash(name) not in profile.lengths
    }
    busy, shares = engine_seconds(engine, counter.requests, unknown)
    busy = busy.times(scale)
    engines = _num_engines(job)
    num_rows = counter.num_rows * scale
    around = planning_seconds + engine.load_seconds + engine.fixed_seconds
    around += engine.assembling_seconds_per_document * num_rows
    wall = busy.times(1 / engines).plus(Range(low=around, expected=around, high=around))
    paid, usd_per_hour = wall.times(engines), job.usd_per_hour(engine.device)
    if usd_per_hour is None:
        return _Priced(tasks, busy.expected, wall, paid, None, None)
    usd = paid.times(usd_per_hour / 3600)
    for name, task in tasks.items():
        task.usd = usd.times(shares.get(name, 0.0) if shares else 1 / len(tasks))
    return _Priced(tasks, busy.expected, wall, paid, usd_per_hour, usd)


def _num_engines(job: Job) -> int:
    return job.pool.workers or 1 if job.pool.kind == "ray" else 1


@dataclass(frozen=True)
class _Priced:
    tasks: dict[str, TaskEstimate]
    busy_seconds: float | None  # of all engines, computing
    wall_seconds: Range | None
    engine_seconds: Range | None
    usd_per_hour: float | None
    usd: Range | None
