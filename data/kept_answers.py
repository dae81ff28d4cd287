"""Finished requests that outlive their run: what an unchanged document's answers are taken from on later nights.

One Parquet file a finished run, in the order of its plan. A row is a request's answer, beside a hash of the whole text
that it was about, by which a later plan finds it (`ops.reuse`). Whether it really answers a request is decided by the
`request_key` alone. Errors, and answers that the same prompt need not give again, are not kept.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from docmill.data import segments, storage
from docmill.data.segments import FinishedRequest

REQUESTS = "_requests"  # the name of this part among those of a unit's tasks; these begin with a letter
_TASKS_KEY = b"docmill.tasks"

SCHEMA = pa.schema([pa.field("text_key", pa.uint64(), nullable=False), *segments.SCHEMA])


def encode_part(answers: Iterable[tuple[int, FinishedRequest]]) -> bytes:
    """One unit's answers, each with its text's key (`utf8.text_key`), as an Arrow file."""
    text_keys, finished = [], []
    for text_key, answer in answers:
        text_keys.append(text_key)
        finished.append(answer)
    rows = segments.to_table(finished)
    keys = pa.array(text_keys, pa.uint64())
    sink = io.BytesIO()
    feather.write_feather(rows.add_column(0, SCHEMA.field(0), keys), sink, compression="zstd")
    return sink.getvalue()


def read_part(uri: str) -> pa.Table:
    """The answers of one unit. Raises `StorageNotFound`, `ArrowException` or `OSError`."""
    return feather.read_table(io.BytesIO(storage.read_bytes(uri)), memory_map=False)


def schema_of(tasks: Collection[str]) -> pa.Schema:
    """The schema of a file of kept answers; `tasks` are hashes of all that their answers depend on but the texts."""
    return SCHEMA.with_metadata({_TASKS_KEY: json.dumps(sorted(tasks)).encode()})


class KeptFile:
    """One file of kept answers: `tasks`, and its row groups."""

    def __init__(self, file: pq.ParquetFile):
        self._file = file
        self.tasks = set(json.loads((file.schema_arrow.metadata or {})[_TASKS_KEY]))

    def text_keys(self) -> Iterator[pa.Array]:
        """The texts that the answers are about, row group by row group."""
        for number in range(self._file.num_row_groups):
            yield self._file.read_row_group(number, columns=["text_key"]).column(0).combine_chunks()

    def groups(self) -> Iterator[pa.Table]:
        """Row group by row group: at most `ROWS_PER_GROUP` rows or `MAX_GROUP_BYTES` in memory."""
        for number in range(self._file.num_row_groups):
            yield self._file.read_row_group(number)


@contextmanager
def open_kept(uri: str) -> Iterator[KeptFile]:
    """Raises `StorageNotFound`, or `ArrowException`, `OSError` or `LookupError` for a file that is none of ours."""
    with storage.open_input(uri) as stream:
        # A page that rotted must not become an answer.
        yield KeptFile(pq.ParquetFile(stream, page_checksum_verification=True))
