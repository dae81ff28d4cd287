"""The job that speed is compared on: generated documents of 40 to 1,500 tokens in 12 shards, three tasks each.

Answers are of 1 to 200 tokens. The KV cache is 0.25 GiB, which is room for some 43,000 tokens of the demo model: a
third of a shard's documents with 250 of them. On a GPU a shard is many times the cache; a cache that holds whole
shards would make every order of requests look the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import islice
from math import exp, log
from pathlib import Path
from random import Random

import pyarrow as pa

from docmill.data.demo import LABELS
from docmill.data.demo.corpus import demo_documents
from docmill.data.layout import join
from docmill.data.shards import ShardReader, ShardWriter
from docmill.engine.config import EngineConfig
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, EngineInfo, Request
from docmill.ops.feed import DocumentCutter
from docmill.ops.job import Job
from docmill.ops.partitions import find_shards
from docmill.ops.prompts import Prompts
from docmill.ops.stages import Stages
from docmill.ops.tasks.task import Columns, Dialogue
from docmill.ops.worker import max_chunk_tokens

DAY = date(2026, 11, 20)
SHARDS = 12
SHORTEST, MEDIAN, LONGEST, SIGMA = 40, 300, 1500, 0.8  # tokens of a document
KV_CACHE_GIB = 0.25
TASKS = {
    "topics": {"kind": "classify", "labels": list(LABELS)},
    "summaries": {"kind": "summarize", "max_output_tokens": 64},
    "wishes": {
        "kind": "generate",
        "instruction": "What does the customer want, and for which order?",
        "max_output_tokens": 200,
    },
}


def reference_job(folder: Path, output: str, engine: EngineConfig) -> Job:
    """The job over the folder's documents."""
    return Job.model_validate(
        {
            "name": "reference",
            "source": {"uri": str(folder / "documents")},
            "output": {"uri": str(folder / output)},
            "engine": engine.model_dump(),
            "tasks": TASKS,
        }
    )


def write_documents(
    folder: Path, *, num_documents: int, duplicate_share: float, seed: int, median: int = MEDIAN
) -> dict[str, float]:
    """Writes the shards; returns what the lengths came out as. Duplicates are whole texts under other ids, anywhere."""
    tokenizer, draw = ModelTokenizer(Job.model_fields["model"].default), Random(seed)
    messages = _messages(seed, tokenizer)
    texts: list[str] = []
    lengths: list[int] = []
    for _ in range(num_documents):
        if texts and draw.random() < duplicate_share:
            earlier = draw.randrange(len(texts))
            texts.append(texts[earlier])
            lengths.append(lengths[earlier])
            continue
        wanted = min(LONGEST, max(SHORTEST, round(exp(draw.gauss(log(median), SIGMA)))))
        text, length = next(messages)
        while length < wanted:
            more, num_tokens = next(messages)
            text, length = f"{text}\n{more}", length + num_tokens
        ids = tokenizer.encode_data([text])[0][:wanted]
        texts.append(tokenizer.decode(ids).strip("\ufffd"))
        lengths.append(len(ids))
    schema = pa.schema([pa.field("doc_id", pa.string()), pa.field("text", pa.string())])
    for shard in range(SHARDS):
        rows = range(num_documents * shard // SHARDS, num_documents * (shard + 1) // SHARDS)
        uri = join(str(folder / "documents"), f"dt={DAY}", f"part-{shard:04}.parquet")
        with ShardWriter(uri, schema) as writer:
            columns = [[f"d-{row}" for row in rows], [texts[row] for row in rows]]
            writer.write(pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema))
            writer.commit()
    lengths.sort()
    return {
        "documents": num_documents,
        "duplicates": num_documents - len(set(texts)),
        "tokens_mean": sum(lengths) / len(lengths),
        "tokens_median": lengths[len(lengths) // 2],
        "tokens_longest": lengths[-1],
    }


def _messages(seed: int, tokenizer: ModelTokenizer) -> Iterator[tuple[str, int]]:
    documents = demo_documents(seed=seed, num_documents=10**9)
    while True:
        texts = [document.text for document in islice(documents, 500)]
        yield from zip(texts, map(len, tokenizer.encode_data(texts)), strict=True)


@dataclass
class Question:
    """What the job asks about one row: the request that docmill makes of it, and how its answer is read."""

    shard: str
    task: str
    row: int
    request: Request
    key: str
    dialogue: Callable[[], Dialogue]

    def read(self, completion: Completion) -> Columns:
        """The row's columns."""
        dialogue = self.dialogue()
        next(dialogue)
        try:
            dialogue.send([completion])
        except StopIteration as end:
            columns: Columns = end.value
            return columns
        raise AssertionError("the reference job asks one question a row")


def questions(job: Job, info: EngineInfo, tokenizer: ModelTokenizer) -> Iterator[Question]:
    """Every question of the job, by shard, row and task: the order in which docmill asks."""
    prompts = Prompts(tokenizer, job.system_prompt)
    cutter = DocumentCutter(job, tokenizer, max_chunk_tokens(job, prompts, info.max_model_len), Stages())
    engine = f"{info.model_fingerprint}|{info.dtype}|{job.engine_settings}"
    number = 0
    for shard in find_shards(job, job.partition(str(DAY))):
        with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
            for batch in reader:
                rows, _ = cutter.cut(batch.documents)
                for offset, chunks in enumerate(rows):
                    assert isinstance(chunks, list)
                    num_tokens = sum(chunk.num_tokens for chunk in chunks)
                    longest_first = sorted(
                        job.tasks.items(), key=lambda item: -item[1].estimate_output_tokens(num_tokens)
                    )
                    for name, task in longest_first:
                        dialogue = partial(task.ask, chunks, prompts)
                        (ask,) = next(dialogue())
                        prompt = prompts.render(ask.text, ask.token_ids, ask.instruction)
                        request = Request(str(number), prompt, ask.sampling, ask.labels)
                        number += 1
                        row = batch.first_row + offset
                        yield Question(shard.name, name, row, request, request.key(engine), dialogue)
