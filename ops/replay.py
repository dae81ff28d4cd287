"""Asks again what failed: the dead letters of one partition, or those with one reason, and mends the output in place.

Nothing else is computed. Each output file with a repaired row is replaced by one atomic write; the report follows, and
last the dead letters, so that a replay that dies on the way is simply replayed.
"""

from __future__ import annotations

import io
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.dead_letters import DeadLetter, change_dead_letters, read_dead_letters
from docmill.data.layout import Layout, source_folder
from docmill.data.manifest import Manifest, TaskManifest, read_manifest
from docmill.data.records import Answer, Document, Partition, Shard, Status
from docmill.data.shards import ROWS_PER_GROUP, ShardReader
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine, StartedEngine
from docmill.ops.dialogues import Dialogues, Finished
from docmill.ops.errors import NothingToReplay
from docmill.ops.feed import DocumentCutter
from docmill.ops.job import Job
from docmill.ops.part_rows import answer_rows, count_answers, dead_letter
from docmill.ops.prepare import Refusal
from docmill.ops.progress import OnProgress, Progress, ignore_progress
from docmill.ops.prompts import Prompts
from docmill.ops.report import Counts, Report, TaskReport
from docmill.ops.stages import Stages
from docmill.ops.tasks.task import Task
from docmill.ops.tuned_engines import read_tuned
from docmill.ops.worker import POLL_SECONDS, max_chunk_tokens

Row = tuple[str, int]  # shard, row
Place = tuple[str, int, str]  # shard, row, task


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did: dead letters asked again, and how many of them have an answer now."""

    num_asked: int
    num_repaired: int
    num_left: int  # dead letters of the partition, those not asked included


def replay(
    job: Job,
    partition: Partition,
    *,
    reason: str | None = None,
    engine: Engine | None = None,
    tokenizer: ModelTokenizer | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Replayed:
    """Ask the partition's dead letters again. Raises `NothingToReplay` where it was never finished or has none."""
    layout = Layout(job.output.uri, partition)
    manifest = read_manifest(layout.manifest)
    if manifest is None:
        raise NothingToReplay(
            f"{layout.manifest} is not there: the partition was never finished. Run it first"
        )
    letters = read_dead_letters(layout.dead_letters)
    chosen = [
        letter
        for letter in letters
        if letter.task in job.tasks and (reason is None or letter.reason == reason)
    ]
    if not chosen:
        reasons = ", ".join(sorted({letter.reason for letter in letters}))
        of_reason = f" with reason {reason!r} (there are: {reasons or 'none'})" if reason else ""
        raise NothingToReplay(f"the partition has no dead letters{of_reason}")
    with ExitStack() as stack:
        on_progress(Progress("loading model", 0, None, 0, 0, 0.0))
        started: StartedEngine | None = None
        if engine is None:
            engine = started = start_engine(job.model, job.engine, read_tuned(job.output.uri))
            stack.callback(started.close)
        tokenizer = tokenizer or ModelTokenizer(job.model)  # meanwhile: it takes seconds too
        if started is not None:
            started.wait_until_loaded()
        finished = _ask(job, partition, chosen, manifest, engine, tokenizer, on_progress)
    if _files(read_manifest(layout.manifest)) != _files(manifest):
        raise NothingToReplay("the partition was run again meanwhile; replay what it has left")
    report = _mend(job, layout, manifest, finished, engine.info.model)
    still = {}
    for letter in chosen:
        again = finished[_place(letter)]
        if again.failed is not None:
            still[_place(letter)] = dead_letter(
                letter.task, letter.shard, letter.row, letter.doc_id, again.answer, again.failed
            )
        elif again.answer.status is Status.FAILED:  # before a request was made
            still[_place(letter)] = letter
    # By when they failed: if a row has failed again since, that is another replay's news.
    asked = {(_place(letter), letter.failed_at) for letter in chosen}

    def left_of(before: list[DeadLetter]) -> list[DeadLetter]:
        kept = [
            letter
            for letter in before
            if (_place(letter), letter.failed_at) not in asked and _place(letter) not in still
        ]
        return [*kept, *still.values()]

    left = left_of(letters)
    _write_report(layout, report, left)

    def change(before: list[DeadLetter]) -> list[DeadLetter]:
        nonlocal left
        left = left_of(before)
        return left

    change_dead_letters(layout.dead_letters, change)
    if len(left) != report.dead_letters:  # another replay has ended meanwhile
        _write_report(layout, report, left)
    return Replayed(len(chosen), len(chosen) - len(still), len(left))


def _write_report(layout: Layout, report: Report, left: list[DeadLetter]) -> None:
    report.dead_letters = len(left)
    report.dead_letters_by_reason = dict(Counter(letter.reason for letter in left))
    storage.put_bytes(layout.report, report.model_dump_json(indent=1).encode())


def _place(letter: DeadLetter) -> Place:
    return letter.shard, letter.row, letter.task


def _files(manifest: Manifest | None) -> dict[str, datetime]:
    return {name: task.finished_at for name, task in manifest.tasks.items()} if manifest else {}


def _ask(
    job: Job,
    partition: Partition,
    letters: Collection[DeadLetter],
    manifest: Manifest,
    engine: Engine,
    tokenizer: ModelTokenizer,
    on_progress: OnProgress,
) -> dict[Place, Finished[Row]]:
    """Answers by shard, row and task."""
    prompts = Prompts(tokenizer, job.system_prompt)
    cutter = DocumentCutter(
        job, tokenizer, max_chunk_tokens(job, prompts, engine.info.max_model_len), Stages()
    )
    dialogues: Dialogues[Row] = Dialogues(
        engine, prompts, job.tasks, max_in_flight=job.engine.max_in_flight, settings=job.engine_settings
    )
    wanted: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for letter in letters:
        wanted[letter.shard][letter.row].add(letter.task)
    shards = {shard.name: shard for shard in storage.list_shards(source_folder(job.source.uri, partition))}
    finished: dict[Place, Finished[Row]] = {}
    started = time.monotonic()

    def collect() -> None:
        dialogues.pump()
        for answered in dialogues.collect(POLL_SECONDS):
            finished[(*answered.key, answered.task_name)] = answered
        usage, seconds = dialogues.usage, time.monotonic() - started
        on_progress(
            Progress(
                "asking again",
                len(finished),
                len(letters),
                usage.num_output_tokens,
                usage.num_prompt_tokens,
                seconds,
            )
        )

    for name, rows in wanted.items():
        if name not in shards:
            raise NothingToReplay(f"shard {name} has left the source; run the partition again")
        tasks_here = {task for of_row in rows.values() for task in of_row}
        if shards[name].version not in _versions(manifest, tasks_here, name):
            raise NothingToReplay(f"shard {name} has changed since it was run; run the partition again")
        for document in _read(job, shards[name], rows):
            (chunks,), _ = cutter.cut([document])
            if isinstance(chunks, Refusal):
                raise NothingToReplay(
                    f"row {document.row} of {name} cannot be asked about any more ({chunks}); run the partition again"
                )
            dialogues.start((name, document.row), chunks, tasks=rows[document.row])
            while not dialogues.wants_more:
                collect()
    while dialogues.num_open:
        collect()
    return finished


def _versions(manifest: Manifest, tasks: Collection[str], shard: str) -> set[str]:
    """The version of a shard that the answers of some tasks were made from; none where they were of several."""
    entries = [manifest.tasks[name] for name in tasks if name in manifest.tasks]
    versions = {file.shard_version for entry in entries for file in entry.files if file.name == shard}
    return versions if len(versions) == 1 else set()


def _read(job: Job, shard: Shard, rows: Collection[int]) -> Iterator[Document]:
    source = job.source
    with ShardReader(
        shard, id_column=source.id_column, text_column=source.text_column, carry=source.carry
    ) as reader:
        for batch in reader.rows(min(rows), max(rows) + 1):
            yield from (document for document in batch.documents if document.row in rows)


def _mend(
    job: Job, layout: Layout, manifest: Manifest, finished: Mapping[Place, Finished[Row]], model: str
) -> Report:
    """Put the new answers into the output files, and their figures into the report."""
    report = Report.model_validate_json(storage.read_bytes(layout.report))
    by_file: defaultdict[tuple[str, str], dict[int, Answer]] = defaultdict(dict)
    for (shard, row, task), again in finished.items():
        by_file[task, shard][row] = again.answer
    for (task, shard), answers in by_file.items():
        _mend_file(layout.answers(task, shard), answers, job.tasks[task], model)
        if task in report.tasks:
            in_order = [answers[row] for row in sorted(answers)]
            count_answers(report.tasks[task], in_order)  # what the failures had cost stays in
    for name in {task for task, _ in by_file} & set(report.tasks):
        _recount(report.tasks[name], layout, manifest.tasks[name], name)
    return report


def _mend_file(uri: str, answers: Mapping[int, Answer], task: Task, model: str) -> None:
    """Put answers into the rows of a file that have none. Others may write it meanwhile: nothing of theirs is lost."""
    while True:
        content, version = storage.read_versioned(uri)
        table = pq.read_table(io.BytesIO(content))
        statuses = table.column("status").to_pylist()
        rows = [row for row in sorted(answers) if row < len(statuses) and statuses[row] == Status.FAILED]
        if not rows:
            return
        num_carried = table.schema.get_field_index("status")
        (carried,) = table.take(pa.array(rows)).select(range(num_carried)).combine_chunks().to_batches()
        after = answer_rows(carried, [answers[row] for row in rows], task, table.schema, model)
        offsets = {row: len(statuses) + offset for offset, row in enumerate(rows)}
        order = pa.array([offsets.get(row, row) for row in range(len(statuses))])
        sink = io.BytesIO()
        pq.write_table(
            pa.concat_tables([table, pa.Table.from_batches([after])]).take(order),
            sink,
            compression="zstd",
            row_group_size=ROWS_PER_GROUP,
        )
        if storage.replace_bytes(uri, sink.getvalue(), version=version):
            return


def _recount(report: TaskReport, layout: Layout, files: TaskManifest, task: str) -> None:
    """Count rows and reasons anew, by what lies there: also after a replay that died between a file and the report."""
    counts, errors = Counts(), Counter[str]()
    failed = set(files.failed_shards)  # their files are of an earlier run
    for file in files.files:
        if file.name in failed:
            continue
        with storage.open_input(layout.answers(task, file.name)) as stream:
            table = pq.read_table(stream, columns=["status", "error"])
        statuses = Counter(table.column("status").to_pylist())
        counts.rows += table.num_rows
        counts.ok += statuses[Status.OK]
        counts.failed += statuses[Status.FAILED]
        counts.skipped += statuses[Status.SKIPPED]
        errors.update(error.split(":", 1)[0] for error in table.column("error").drop_null().to_pylist())
    report.counts, report.errors = counts, dict(errors)
