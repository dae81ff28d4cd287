"""Read shards in bounded memory, write output files atomically. Parquet and Arrow do the work.

A shard is read row group by row group and, inside a row group, in batches of at most `max_batch_bytes` of text, so
memory depends neither on the size of a shard nor on how its writer cut it. Only the columns that the job names are
read. Text comes out as `str` whatever the file holds: bytes that are not UTF-8 become U+FFFD in that row alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.errors import ShardCorrupt
from docmill.data.records import Document, Shard
from docmill.data.schemas import check_shard_schema
from docmill.data.utf8 import num_bytes_each, strings, text_keys, valid_utf8

T = TypeVar("T")

MAX_BATCH_ROWS = 512
MAX_BATCH_BYTES = 16 << 20
ROWS_PER_GROUP = 64 * 1024
MAX_GROUP_BYTES = 32 << 20  # of a row group that is written: what one output file under way holds in memory


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Some consecutive rows of one shard."""

    first_row: int
    documents: list[Document]
    carried: (
        pa.RecordBatch
    )  # the id column and the carried columns of the same rows, as they are in the shard


@dataclass(frozen=True, slots=True)
class ScannedBatch:
    """Some consecutive rows, in short."""

    ids: list[str | None] | None  # where they are wanted
    lengths: list[int]  # of the texts in bytes, 0 for null
    text_keys: list[int]  # see `utf8.text_keys`
    openings: list[int]  # of the texts' beginnings, as above
    texts: list[str | None] | None = None  # where they are wanted


class ShardReader:
    """One shard's documents. `num_rows` and `carried_schema` are known on opening; iterate for the batches.

    `rows` reads only some of them: row groups without any are not touched.

    Raises `ShardCorrupt` or `ShardSchemaError` on opening or, for damage further inside, while iterating.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        id_column: str,
        text_column: str,
        carry: list[str],
        max_batch_rows: int = MAX_BATCH_ROWS,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ):
        self.shard = shard
        self._id_column, self._text_column = id_column, text_column
        self._max_batch_rows, self._max_batch_bytes = max_batch_rows, max_batch_bytes
        self._stream_context = storage.open_input(shard.uri)
        self._stream = self._stream_context.__enter__()
        try:
            self._file = self._parquet(lambda: pq.ParquetFile(self._stream))
            schema = self._file.schema_arrow
            check_shard_schema(shard.uri, schema, id_column=id_column, text_column=text_column, carry=carry)
        except BaseException:
            self.close()
            raise
        self._kept = list(dict.fromkeys([id_column, *carry]))
        self._columns = list(dict.fromkeys([*self._kept, text_column]))
        self.carried_schema = pa.schema([schema.field(name) for name in self._kept])
        self.num_rows: int = self._file.metadata.num_rows

    def __iter__(self) -> Iterator[DocumentBatch]:
        return self.rows(0, self.num_rows)

    def rows(self, first_row: int, end_row: int) -> Iterator[DocumentBatch]:
        """The documents of rows `first_row` to before `end_row`."""
        for row, batch in self._batches(self._columns, first_row, end_row):
            start = row
            for part in self._parts(batch):
                yield self._parquet(partial(self._documents, part, start))
                start += part.num_rows

    def scan(self, *, ids: bool, texts: bool = False) -> Iterator[ScannedBatch]:
        """Of all rows, in order, what planning needs to know of them."""
        columns = [self._id_column, self._text_column] if ids else [self._text_column]
        for _, batch in self._batches(columns, 0, self.num_rows):
            yield self._parquet(partial(self._scanned, batch, ids, texts))

    def _scanned(self, batch: pa.RecordBatch, ids: bool, texts: bool) -> ScannedBatch:
        column = batch.column(self._text_column)
        return ScannedBatch(
            strings(batch.column(self._id_column)) if ids else None,
            num_bytes_each(column),
            *text_keys(column),
            strings(column) if texts else None,
        )

    def _batches(
        self, columns: list[str], first_row: int, end_row: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with the row that each starts at."""
        metadata, row = self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            group_end = row + metadata.row_group(group).num_rows
            if group_end <= first_row or row >= end_row:
                row = group_end
                continue
            batches = self._file.iter_batches(self._batch_rows(group), row_groups=[group], columns=columns)
            while row < end_row and (batch := self._parquet(partial(next, batches, None))) is not None:
                start, end = max(first_row - row, 0), min(end_row - row, batch.num_rows)
                if start < end:
                    yield row + start, batch.slice(start, end - start)
                row += batch.num_rows
            row = group_end

    def close(self) -> None:
        """Give the file handle back."""
        self._stream_context.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batch_rows(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        row_bytes = metadata.total_byte_size / max(metadata.num_rows, 1)
        return int(max(1, min(self._max_batch_rows, self._max_batch_bytes // max(row_bytes, 1))))

    def _parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The batch in parts of at most `max_batch_bytes`, for row groups whose average says little about the rows."""
        start = num_bytes = 0
        for row, length in enumerate(num_bytes_each(batch.column(self._text_column))):
            if row > start and num_bytes + length > self._max_batch_bytes:
                yield batch.slice(start, row - start)
                start, num_bytes = row, 0
            num_bytes += length
        yield batch.slice(start)

    def _documents(self, batch: pa.RecordBatch, first_row: int) -> DocumentBatch:
        ids = strings(batch.column(self._id_column))
        texts = strings(batch.column(self._text_column))
        documents = [
            Document(doc_id, text, first_row + offset)
            for offset, (doc_id, text) in enumerate(zip(ids, texts, strict=True))
        ]
        return DocumentBatch(first_row, documents, valid_utf8(batch.select(self._kept)))

    def _parquet(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except Exception as error:
            if _arrows_own(error):
                raise ShardCorrupt(
                    self.shard.uri,
                    f"not readable as Parquet ({error}). Write the file again, or take it out of the source",
                ) from error
            with storage.store_errors(self.shard.uri):
                raise


def _arrows_own(error: Exception) -> bool:
    """Whether Arrow complains of the file. What the store's driver raises comes through Arrow as it was."""
    if isinstance(error, OSError):
        return type(error) is OSError and error.errno is None  # so Arrow says that pages are damaged
    return isinstance(error, (pa.ArrowException, ValueError))


class ShardWriter:
    """Writes one Parquet file that appears, whole, when `commit` is called, and not at all otherwise.

    Rows are written to a local file as they come (memory: one row group), which is then put in place by one upload.
    Use as a context manager: leaving it without `commit` throws the file away.
    """

    def __init__(self, uri: str, schema: pa.Schema, *, max_rows_per_group: int = ROWS_PER_GROUP):
        self.uri, self.schema = uri, schema
        self.num_rows = 0
        self._max_rows_per_group = max_rows_per_group
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = self._bytes_pending = 0
        self._spool: str | None = None
        # Opened on the first flush: thousands of files may be under way.
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; `batch` has exactly the writer's schema."""
        self._pending.append(batch)
        self._num_pending += batch.num_rows
        self._bytes_pending += batch.nbytes
        self.num_rows += batch.num_rows
        if self._num_pending >= self._max_rows_per_group or self._bytes_pending >= MAX_GROUP_BYTES:
            self._flush()

    def commit(self) -> None:
        """Finish the file and make it visible under `uri`, over whatever lay there."""
        self._flush()
        self._opened().close()
        assert self._spool is not None
        storage.put_file(self.uri, self._spool)

    def discard(self) -> None:
        """Throw the file away; after `commit` this does nothing that shows."""
        self._pending = []
        if self._writer is not None:
            self._writer.close()
        if self._spool is not None and os.path.exists(self._spool):
            os.remove(self._spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _opened(self) -> pq.ParquetWriter:
        if self._writer is None:
            handle, self._spool = tempfile.mkstemp(prefix="docmill-", suffix=".parquet")
            os.close(handle)
            # mkstemp makes it private; the output is for all who may see the folder
            os.chmod(self._spool, 0o644)
            self._writer = pq.ParquetWriter(
                self._spool, self.schema, compression="zstd", write_page_checksum=True
            )
        return self._writer

    def _flush(self) -> None:
        if self._pending:
            self._opened().write_table(pa.Table.from_batches(self._pending, schema=self.schema))
            self._pending, self._num_pending, self._bytes_pending = [], 0, 0
