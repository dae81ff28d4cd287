"""One run over one partition, from shards to answers and report. The heart of docmill; read it first in `ops/`.

    shards --feed (own thread): read, clean, tokenise, cut--> documents
           --dialogues: every task's requests, adjacent--> engine (own thread), never waiting for a batch or a shard
           --answer files: rows in input order--> one Parquet file per (task, shard), atomically
           --> report.json, and last the manifest

Running a partition again replaces its files. Rows and shards that cannot be used are counted, with reasons; what
raises here (`NoShards`, `JobError`, `StorageError`, `EngineError`) concerns the run as a whole.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.manifest import read_manifest, write_manifest
from docmill.data.records import Partition
from docmill.engine.open_engine import open_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine, EngineInfo
from docmill.ops import report as reports
from docmill.ops.answer_files import AnswerFiles, Place
from docmill.ops.dialogues import Dialogues
from docmill.ops.errors import JobError
from docmill.ops.feed import Ahead, BatchReady, Event, ShardEnded, ShardFailed, ShardOpened, read_documents
from docmill.ops.finish import make_manifest, make_report
from docmill.ops.job import Job
from docmill.ops.meter import Meter
from docmill.ops.partitions import find_shards
from docmill.ops.progress import OnProgress, Progress, ignore_progress
from docmill.ops.prompts import Prompts
from docmill.ops.report import Report
from docmill.ops.stages import Stages
from docmill.ops.tasks.task import Task

log = logging.getLogger(__name__)

SMALLEST_CHUNK_TOKENS = 16
NUM_BATCHES_AHEAD = 4
POLL_SECONDS = 0.1


def run_partition(
    job: Job,
    partition: Partition,
    *,
    tasks: list[str] | None = None,
    engine: Engine | None = None,
    tokenizer: ModelTokenizer | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Report:
    """Answer the job's tasks (or only those named) about every document of the partition.

    The engine is opened here and closed again, unless one is given. Raises for what concerns the whole run only.
    """
    started_at = reports.now()
    chosen = _choose(job, tasks)
    shards = find_shards(job, partition)
    layout = Layout(job.output.uri, partition)
    storage.check_writable(layout.internal_folder)
    _check_owner(job, layout)
    stages = Stages()
    with ExitStack() as stack:
        on_progress(Progress("loading model", 0, None, 0, 0, 0.0))
        with stages.measure("model_load"):
            tokenizer = tokenizer or ModelTokenizer(job.model)
            if engine is None:
                engine = open_engine(job.model, job.engine, tokenizer)
                stack.callback(engine.close)
        busy_before = engine.busy_seconds
        prompts = Prompts(tokenizer, job.system_prompt)
        max_chunk_tokens = _max_chunk_tokens(job, prompts, engine.info)
        events = read_documents(
            job, shards, tokenizer=tokenizer, max_chunk_tokens=max_chunk_tokens, stages=stages
        )
        feed = stack.enter_context(Ahead(events, num_ahead=NUM_BATCHES_AHEAD))
        files = stack.enter_context(
            AnswerFiles(layout, chosen, job=job.name, model=engine.info.model, stages=stages)
        )
        max_in_flight = job.engine.max_in_flight or 4 * engine.info.max_num_seqs
        dialogues: Dialogues[Place] = Dialogues(engine, prompts, chosen, max_in_flight=max_in_flight)
        meter = Meter(on_progress, files, dialogues, shards)
        while not feed.exhausted or len(dialogues):
            while not feed.exhausted and dialogues.wants_more and files.has_room:
                event = feed.take(wait=len(dialogues) == 0)
                if event is None:
                    break
                _take(event, files, dialogues)
            dialogues.pump()
            for finished in dialogues.collect(POLL_SECONDS):
                files.add(finished.key, finished.task_name, finished.answer)
            meter.show()
        stages.seconds["engine"] = engine.busy_seconds - busy_before
        meter.show(stage="writing", now=True)
        files.remove_stale(shards)
        report = make_report(
            job,
            partition,
            engine.info,
            files,
            dialogues,
            stages=stages,
            started_at=started_at,
            num_shards=len(shards),
        )
    storage.put_bytes(layout.report, report.model_dump_json(indent=1).encode())
    write_manifest(layout.manifest, make_manifest(job, partition, layout, files, report))
    log.info(
        "job=%s partition=%s documents=%d seconds=%.1f",
        job.name,
        partition,
        report.documents,
        report.seconds.wall,
    )
    return report


def _choose(job: Job, names: list[str] | None) -> dict[str, Task]:
    unknown = sorted(set(names or ()) - set(job.tasks))
    if unknown:
        raise JobError(
            job.name, [f"no task {', '.join(map(repr, unknown))}; the job has {', '.join(job.tasks)}"]
        )
    return {name: task for name, task in job.tasks.items() if names is None or name in names}


def _check_owner(job: Job, layout: Layout) -> None:
    """Two jobs with one output would overwrite each other's answers without a word."""
    manifest = read_manifest(layout.manifest)
    if manifest is not None and manifest.job != job.name:
        raise JobError(
            job.name,
            [f"output.uri: {job.output.uri} holds the answers of job {manifest.job!r}; choose another"],
        )


def _max_chunk_tokens(job: Job, prompts: Prompts, info: EngineInfo) -> int:
    """The longest chunk that fits every task of the job, chosen or not: prompts must not depend on the choice."""
    room = {name: task.max_chunk_tokens(prompts, info.max_model_len) for name, task in job.tasks.items()}
    tightest = min(room, key=room.__getitem__)
    if room[tightest] < SMALLEST_CHUNK_TOKENS:
        raise JobError(job.name, [
            f"tasks.{tightest}: its prompt and longest answer leave {room[tightest]} tokens for the document in a "
            f"context of {info.max_model_len}; lower its output tokens, shorten the instruction, or raise "
            "engine.max_model_len"
        ])  # fmt: skip
    return min(room[tightest], job.chunking.max_tokens or room[tightest])


def _take(event: Event, files: AnswerFiles, dialogues: Dialogues[Place]) -> None:
    match event:
        case ShardOpened():
            files.open_shard(event)
        case BatchReady():
            for place, row in zip(files.open_batch(event), event.rows, strict=True):
                if isinstance(row, list):
                    dialogues.start(place, row)
        case ShardEnded():
            files.end_shard(event.shard)
        case ShardFailed():
            log.warning("shard failed: %s", event.error)
            files.fail_shard(event)
