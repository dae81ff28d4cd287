"""How often each token stands in what a job reads, asks and answers: what a trimmed vocabulary has to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from docmill.data import storage
from docmill.data.records import Partition, Shard
from docmill.data.shards import ShardReader
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.compression.halves import is_held_out
from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.ops.partitions import find_shards
from docmill.ops.prepare import PreparedText, prepare
from docmill.ops.tasks.task import Labels


@dataclass(frozen=True, slots=True)
class CorpusTokens:
    """`counts`: by token id, of all documents. `half_counts`: without those of the half that models are judged on.

    What to expect of another day, from 0 to 1: `unseen_share` of that half's tokens, which will be spelled in smaller
    pieces, are not in `half_counts`; they stand in `unseen_document_share` of its documents, which will be longer.
    """

    counts: Counter[int]
    half_counts: Counter[int]
    unseen_share: float
    unseen_document_share: float


def corpus_tokens(
    job: Job, partition: Partition, asked: Iterable[AskedSequence], labels: Iterable[Labels]
) -> CorpusTokens:
    """Of all documents of the partition, of `keep_texts`, of prompts and answers that were asked, and of all labels.

    Raises `ShardError`: what cannot be read could not be kept.
    """
    counts = Counter(chain.from_iterable(sequence.token_ids for sequence in asked))
    counts.update(chain.from_iterable(chain.from_iterable(labels)))
    tokenizer = ModelTokenizer(job.model.uncompressed)
    compress = job.model.compress
    if compress is not None and compress.keep_texts is not None:
        for texts in _texts(job, find_kept(job, compress.keep_texts), id_column=job.source.text_column):
            counts.update(chain.from_iterable(tokenizer.encode_data(texts)))
    seen, others = Counter[int](), Counter[int]()
    num_others = 0
    doubtful: list[list[int]] = []  # of documents of the other half: tokens that were not seen until then
    for texts in _texts(job, find_shards(job, partition), id_column=job.source.id_column):
        for text, ids in zip(texts, tokenizer.encode_data(texts), strict=True):
            if not is_held_out(text):
                seen.update(ids)
                continue
            num_others += 1
            others.update(ids)
            if new := [token for token in set(ids) if token not in seen and token not in counts]:
                doubtful.append(new)
    half = counts + seen
    unseen = sum(number for token, number in others.items() if token not in half)
    unseen_documents = sum(any(token not in half for token in tokens) for tokens in doubtful)
    return CorpusTokens(
        half + others, half, unseen / max(1, others.total()), unseen_documents / max(1, num_others)
    )


def find_kept(job: Job, keep_texts: str) -> list[Shard]:
    """Files with the texts whose tokens stay. Raises `JobError` where there are none."""
    shards = storage.list_shards(keep_texts)
    if not shards:
        raise JobError(job.name, [
            f"model.compress.keep_texts: no Parquet files in {keep_texts}; expected a folder of them, with the texts "
            f"in the column {job.source.text_column!r}"
        ])  # fmt: skip
    return shards


def _texts(job: Job, shards: list[Shard], *, id_column: str) -> Iterator[list[str]]:
    """Clean, as the job asks about them."""
    source = job.source
    for shard in shards:
        with ShardReader(shard, id_column=id_column, text_column=source.text_column, carry=[]) as reader:
            for batch in reader:
                prepared = (prepare(document, job.prepare) for document in batch.documents)
                yield [one.text for one in prepared if isinstance(one, PreparedText)]
