"""Dead letters: requests that failed for good, each with its prompt, its reason and its attempts.

One row for each (document, task) whose output row says `failed` because of a request; rows whose document could not
be asked about at all (no id, no text) are in the output alone. `docmill replay` asks these again.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.errors import StorageNotFound

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string()),
        pa.field("request_key", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("sampling", pa.string(), nullable=False),  # JSON
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("failed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One request that failed for good. `row` is the document's position in the shard, from 0."""

    task: str
    shard: str
    row: int
    doc_id: str | None
    request_key: str
    prompt_token_ids: Sequence[int]
    sampling: str
    reason: str
    message: str
    attempts: int
    failed_at: datetime


def encode_dead_letters(letters: list[DeadLetter]) -> bytes:
    """As a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([asdict(letter) for letter in letters], schema=SCHEMA), sink, compression="zstd"
    )
    return sink.getvalue()


def read_dead_letters(uri: str) -> list[DeadLetter]:
    """Those of a file; none where there is no file, or none that this version understands."""
    try:
        return _decode(uri, storage.read_bytes(uri))
    except StorageNotFound:
        return []


def change_dead_letters(uri: str, change: Callable[[list[DeadLetter]], list[DeadLetter]]) -> None:
    """Replace what lies there by what `change` makes of it, also while another run does the same.

    Where there are none and were none, no file is written; a file that was there stays, at the end an empty one.
    """
    while True:
        try:
            content, version = storage.read_versioned(uri)
        except StorageNotFound:
            content, version = b"", None
        letters = change(_decode(uri, content) if version is not None else [])
        if not letters and version is None:
            return
        letters = sorted(letters, key=lambda letter: (letter.shard, letter.row, letter.task))
        if storage.replace_bytes(uri, encode_dead_letters(letters), version=version):
            return


def _decode(uri: str, content: bytes) -> list[DeadLetter]:
    # A run looks at it at its very end; nothing that lies there may cost it its work.
    try:
        table = pq.read_table(io.BytesIO(content), schema=SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s holds no dead letters of this version: %s", uri, type(error).__name__)
        return []
    names = [field.name for field in fields(DeadLetter)]
    return [DeadLetter(**{name: row[name] for name in names}) for row in table.to_pylist()]
