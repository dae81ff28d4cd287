"""How often each token stands in what a job reads, asks and answers: what a trimmed vocabulary has to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from docmill.data import storage
from docmill.data.records import Partition
from docmill.data.shards import ShardReader
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partitions import find_shards
from docmill.ops.prepare import PreparedText, prepare


def token_counts(job: Job, partition: Partition, asked: Iterable[AskedSequence]) -> Counter[int]:
    """Of all documents of the partition, of `keep_texts`, and of prompts and answers that were asked.

    Raises `ShardError`: what cannot be read could not be kept.
    """
    counts = Counter(chain.from_iterable(sequence.token_ids for sequence in asked))
    tokenizer = ModelTokenizer(job.model.uncompressed)
    compress = job.model.compress
    shards = list(find_shards(job, partition))
    if compress is not None and compress.keep_texts is not None:
        shards += storage.list_shards(compress.keep_texts)
    for shard in shards:
        with ShardReader(
            shard, id_column=job.source.id_column, text_column=job.source.text_column, carry=[]
        ) as reader:
            for batch in reader:
                prepared = (prepare(document, job.prepare) for document in batch.documents)
                texts = [one.text for one in prepared if isinstance(one, PreparedText)]
                counts.update(chain.from_iterable(tokenizer.encode_data(texts)))
    return counts
