"""Rows that are asked as another row of the partition, which they are like: what a worker needs to know of them.

One or more small Arrow files a unit, laid down with the plan by `ops.representatives` and read when the unit is opened.
A representative's text stands in the file, so that nobody has to read its shard for it; once, for all rows of the unit.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.feather as feather

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import join
from docmill.data.records import Document

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("representative_row", pa.int64(), nullable=False),
        pa.field("doc_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("text", pa.dictionary(pa.int32(), pa.large_string()), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Representative:
    """The document that is asked about, and the shard it is in."""

    shard: str
    document: Document


def put_near_rows(folder_uri: str, name: str, rows: Sequence[tuple[int, Representative]]) -> None:
    """One PUT: rows of a unit, each with its representative."""
    places: dict[tuple[str, int], int] = {}
    representatives: list[Representative] = []
    indices = []
    for _, representative in rows:
        place = representative.shard, representative.document.row
        if place not in places:
            places[place] = len(places)
            representatives.append(representative)
        indices.append(places[place])

    def dictionary(values: list[str | None], type_: pa.DataType) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(values, type_))

    documents = [representative.document for representative in representatives]
    columns = [
        pa.array([row for row, _ in rows], pa.int64()),
        dictionary([representative.shard for representative in representatives], pa.string()),
        pa.array([documents[index].row for index in indices], pa.int64()),
        dictionary([document.doc_id for document in documents], pa.string()),
        dictionary([document.text for document in documents], pa.large_string()),
    ]
    sink = io.BytesIO()
    feather.write_feather(pa.Table.from_arrays(columns, schema=SCHEMA), sink, compression="zstd")
    storage.put_bytes(join(folder_uri, f"{name}.arrow"), sink.getvalue())


def read_near_rows(folder_uris: Iterable[str]) -> dict[int, Representative]:
    """Representatives by row. A file that cannot be read is left out, with a warning: its rows are asked themselves."""
    found: dict[int, Representative] = {}
    for folder_uri in folder_uris:
        for file in storage.list_files(folder_uri):
            try:
                content = io.BytesIO(storage.read_bytes(file.uri))
                table = feather.read_table(content, columns=SCHEMA.names, memory_map=False)
            except StorageNotFound:  # another run has finished the partition and removes them
                continue
            except (pa.ArrowException, OSError) as error:
                log.warning("%s cannot be read and is left out: %s", file.uri, type(error).__name__)
                continue
            found |= _representatives(table)
    return found


def _representatives(table: pa.Table) -> dict[int, Representative]:
    places = zip(table["shard"].to_pylist(), table["representative_row"].to_pylist(), strict=True)
    known: dict[tuple[str, int], Representative] = {}
    found = {}
    for number, (row, place) in enumerate(zip(table["row"].to_pylist(), places, strict=True)):
        if place not in known:  # a text is decoded once, however many rows are asked as it
            doc_id, text = table["doc_id"][number].as_py(), table["text"][number].as_py()
            known[place] = Representative(place[0], Document(doc_id, text, place[1]))
        found[row] = known[place]
    return found
