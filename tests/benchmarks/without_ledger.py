"""The same job without a ledger: what is written lies in the output when the run ends, and a kill loses everything.

Stands for docmill as it was before it could resume: the same reader, prompts, dialogues and engine, one output file a
(task, shard), and nothing else. `durability.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from docmill.data.layout import Layout
from docmill.data.records import Answer, Partition
from docmill.data.schemas import answer_schema
from docmill.data.shards import DocumentBatch, ShardReader, ShardWriter
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine
from docmill.ops.chunking import Chunk
from docmill.ops.dialogues import Dialogues
from docmill.ops.feed import Ahead, DocumentCutter
from docmill.ops.job import Job
from docmill.ops.part_rows import answer_rows
from docmill.ops.partitions import find_shards
from docmill.ops.prepare import Refusal
from docmill.ops.prompts import Prompts
from docmill.ops.stages import Stages
from docmill.ops.worker import NUM_BATCHES_AHEAD, POLL_SECONDS, max_chunk_tokens

Rows = list[list[Chunk] | Refusal]


@dataclass(eq=False)
class _Batch:
    shard: str
    batch: DocumentBatch
    answers: dict[str, list[Answer | None]] = field(default_factory=dict)


def run_without_ledger(
    job: Job, partition: Partition, *, engine: Engine, tokenizer: ModelTokenizer
) -> tuple[int, int]:
    """Writes the answers; returns the tokens of all prompts and of all answers."""
    prompts = Prompts(tokenizer, job.system_prompt)
    cutter = DocumentCutter(
        job, tokenizer, max_chunk_tokens(job, prompts, engine.info.max_model_len), Stages()
    )
    dialogues: Dialogues[tuple[_Batch, int]] = Dialogues(
        engine,
        prompts,
        job.tasks,
        max_in_flight=job.engine.max_in_flight or 4 * engine.info.max_num_seqs,
        settings=job.engine_settings,
    )
    schemas: dict[str, dict[str, object]] = {}
    batches: list[_Batch] = []

    def read() -> Iterator[tuple[_Batch, Rows]]:
        source = job.source
        for shard in find_shards(job, partition):
            with ShardReader(
                shard, id_column=source.id_column, text_column=source.text_column, carry=source.carry,
            ) as reader:  # fmt: skip
                schemas[shard.name] = {
                    name: answer_schema(reader.carried_schema, task.columns, job=job.name)
                    for name, task in job.tasks.items()
                }
                for batch in reader:
                    rows, _ = cutter.cut(batch.documents)
                    yield _Batch(shard.name, batch), rows

    with Ahead(read(), num_ahead=NUM_BATCHES_AHEAD) as feed:
        while not feed.exhausted or dialogues.num_open:
            while not feed.exhausted and dialogues.wants_more:
                item = feed.take(0.0 if dialogues.num_open else POLL_SECONDS)
                if item is None:
                    break
                open_batch, rows = item
                batches.append(open_batch)
                open_batch.answers = {name: [None] * len(rows) for name in job.tasks}
                for offset, row in enumerate(rows):
                    if isinstance(row, Refusal):
                        for answers in open_batch.answers.values():
                            answers[offset] = Answer(row.status, error=str(row))
                    else:
                        dialogues.start((open_batch, offset), row)
            dialogues.pump()
            for finished in dialogues.collect(POLL_SECONDS):
                of_batch, offset = finished.key
                of_batch.answers[finished.task_name][offset] = finished.answer
    layout = Layout(job.output.uri, partition)
    for name, task in job.tasks.items():
        for shard_name, by_task in schemas.items():
            with ShardWriter(layout.answers(name, shard_name), by_task[name]) as writer:
                for batch in batches:
                    if batch.shard == shard_name:
                        answers = [answer for answer in batch.answers[name] if answer is not None]
                        writer.write(
                            answer_rows(batch.batch.carried, answers, task, writer.schema, engine.info.model)
                        )
                writer.commit()
    return dialogues.usage.num_prompt_tokens, dialogues.usage.num_output_tokens
