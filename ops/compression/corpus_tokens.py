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
from docmill.ops.job import Job
from docmill.ops.partitions import find_shards
from docmill.ops.prepare import PreparedText, prepare


@dataclass(frozen=True, slots=True)
class CorpusTokens:
    """`counts`: by token id. `unseen_share`: of one half's tokens, those that the other half does not have.

    The latter is what to expect of another day: so many of its tokens will be spelled in smaller pieces, about.
    """

    counts: Counter[int]
    unseen_share: float


def corpus_tokens(job: Job, partition: Partition, asked: Iterable[AskedSequence]) -> CorpusTokens:
    """Of all documents of the partition, of `keep_texts`, and of prompts and answers that were asked.

    Raises `ShardError`: what cannot be read could not be kept.
    """
    counts = Counter(chain.from_iterable(sequence.token_ids for sequence in asked))
    tokenizer = ModelTokenizer(job.model.uncompressed)
    halves: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for texts in _texts(job, find_shards(job, partition)):
        for text, ids in zip(texts, tokenizer.encode_data(texts), strict=True):
            halves[is_held_out(text)].update(ids)
    seen, others = halves
    unseen = sum(number for token, number in others.items() if token not in seen and token not in counts)
    compress = job.model.compress
    if compress is not None and compress.keep_texts is not None:
        for texts in _texts(job, storage.list_shards(compress.keep_texts)):
            counts.update(chain.from_iterable(tokenizer.encode_data(texts)))
    return CorpusTokens(counts + seen + others, unseen / max(1, others.total()))


def _texts(job: Job, shards: list[Shard]) -> Iterator[list[str]]:
    """Clean, as the job asks about them."""
    source = job.source
    for shard in shards:
        with ShardReader(
            shard, id_column=source.id_column, text_column=source.text_column, carry=[]
        ) as reader:
            for batch in reader:
                prepared = (prepare(document, job.prepare) for document in batch.documents)
                yield [one.text for one in prepared if isinstance(one, PreparedText)]
