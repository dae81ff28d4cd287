"""The demo corpus as Arrow record batches, for whoever writes it into shards."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from docmill.data.demo.corpus import demo_documents

DEMO_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string(), nullable=False)
        for name in (
            "doc_id",
            "text",
            "language",
            "reference_translation",
            "reference_label",
            "reference_summary",
        )
    ]
)


def demo_batches(
    *, seed: int, num_documents: int, start: int = 0, duplicate_share: float = 0.0, batch_size: int = 4096
) -> Iterator[pa.RecordBatch]:
    """The documents of `demo_documents` in batches of DEMO_SCHEMA; holds one batch in memory.

    The last batch may be smaller; a larger `batch_size` makes larger row groups where batches are written as such.
    """
    documents = demo_documents(
        seed=seed, num_documents=num_documents, start=start, duplicate_share=duplicate_share
    )
    while rows := list(islice(documents, batch_size)):
        columns = [[getattr(row, name) for row in rows] for name in DEMO_SCHEMA.names]
        yield pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=DEMO_SCHEMA)
