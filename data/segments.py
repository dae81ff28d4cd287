"""Segments: small immutable Parquet files of finished requests, so that none is paid for twice.

A worker writes one every few seconds for each unit that it works on. A request is done when its `request_key`, a
hash of all that the answer depends on, is in a segment; whoever takes the unit over reads them first.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import join
from docmill.data.records import NO_USAGE, Usage

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("request_key", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("cached_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),
        pa.field("label_logprobs", pa.list_(pa.float64())),
        pa.field("error_reason", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("duplicate", pa.bool_()),
    ]
)


@dataclass(slots=True)
class FinishedRequest:
    """One request's answer, as it is kept. Equal keys have equal answers, so the first one found is as good as any."""

    request_key: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    label_logprobs: tuple[float, ...] | None = None
    error_reason: str | None = None
    error_message: str | None = None
    attempts: int = 1
    duplicate: bool = False  # the engine answered an equal request of another row


def write_segment(folder_uri: str, name: str, finished: Iterable[FinishedRequest]) -> None:
    """One PUT. `name` must be new in the folder."""
    put_segment(folder_uri, name, to_table(finished))


def put_segment(folder_uri: str, name: str, table: pa.Table) -> None:
    """The same from a table whose columns can be cast to `SCHEMA`."""
    sink = io.BytesIO()
    table = table.select(SCHEMA.names).cast(SCHEMA)
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    storage.put_bytes(join(folder_uri, f"{name}.parquet"), sink.getvalue())


def to_table(finished: Iterable[FinishedRequest]) -> pa.Table:
    """A row a request."""
    rows = [
        (
            item.request_key,
            item.token_ids,
            item.finish_reason,
            item.usage.num_prompt_tokens,
            item.usage.num_cached_tokens,
            item.usage.num_output_tokens,
            item.label_logprobs,
            item.error_reason,
            item.error_message,
            item.attempts,
            item.duplicate,
        )
        for item in finished
    ]
    columns = zip(*rows, strict=True) if rows else ((),) * len(SCHEMA)
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def from_table(table: pa.Table) -> Iterator[FinishedRequest]:
    """The requests of a table with the columns of `SCHEMA`."""
    for row in table.select(SCHEMA.names).to_pylist():
        logprobs = row["label_logprobs"]
        yield FinishedRequest(
            row["request_key"],
            tuple(row["token_ids"]),
            row["finish_reason"],
            Usage(row["prompt_tokens"], row["cached_tokens"], row["output_tokens"]),
            None if logprobs is None else tuple(logprobs),
            row["error_reason"],
            row["error_message"],
            row["attempts"],
            bool(row["duplicate"]),
        )


def read_segments(folder_uris: Iterable[str]) -> dict[str, FinishedRequest]:
    """All finished requests below the folders, by key. A file that is no segment is left out, with a warning.

    Of equal requests of several rows it is the one that the engine has answered.
    """
    found: dict[str, FinishedRequest] = {}
    for folder_uri in folder_uris:
        for file in storage.list_files(folder_uri):
            try:
                content = io.BytesIO(storage.read_bytes(file.uri))
                table = pq.read_table(content, schema=SCHEMA, page_checksum_verification=True)
            except StorageNotFound:  # another run has finished the partition and removes them
                continue
            except (pa.ArrowException, OSError) as error:
                log.warning("%s is no segment and is left out: %s", file.uri, type(error).__name__)
                continue
            for finished in from_table(table):
                if not (finished.duplicate and finished.request_key in found):
                    found[finished.request_key] = finished
    return found
