"""Text of any Arrow type as `str`, and columns that hold bytes which are no UTF-8 made readable for everybody.

Arrow does not check strings on reading, so a file may hold anything in them. Polars refuses a whole file for one such
string. Here each bad byte becomes U+FFFD, in its own row alone.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
import xxhash

from docmill.data.schemas import is_text

OPENING_BYTES = 256  # some 60 tokens: the least that is worth finding in the KV cache again


def strings(column: pa.Array) -> list[str | None]:
    """A column of strings, bytes, integers or a dictionary of them, as `str`; never raises on bad UTF-8."""
    if pat.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pat.is_integer(column.type):
        column = column.cast(pa.string())
    # as_py() would raise for all rows where one is no UTF-8.
    raw = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", errors="replace") for value in raw]


def num_bytes_each(column: pa.Array) -> list[int]:
    """Bytes of each value of a column that `strings` takes as text; 0 for null."""
    if pat.is_dictionary(column.type):
        lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    elif pat.is_string_view(column.type):
        lengths = pc.binary_length(column.cast(pa.large_binary()))
    else:
        lengths = pc.binary_length(column)
    return lengths.fill_null(0).to_pylist()


def text_key(text: str) -> int:
    """64 bits that stand for a text, on every machine."""
    return xxhash.xxh3_64_intdigest(text.encode())


def text_keys(column: pa.Array) -> tuple[list[int], list[int]]:
    """The `text_key` of each value of a column that `strings` takes, and that of its first `OPENING_BYTES` bytes.

    0 for null, and for the opening of a text that is no longer than that. Bad UTF-8 has a key of its own.
    """
    if pat.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pat.is_integer(column.type):
        column = column.cast(pa.string())
    raw = column.cast(pa.large_binary()).to_pylist()
    key = xxhash.xxh3_64_intdigest
    return (
        [0 if value is None else key(value) for value in raw],
        [0 if value is None or len(value) <= OPENING_BYTES else key(value[:OPENING_BYTES]) for value in raw],
    )


def valid_utf8(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows and types; strings at any depth are UTF-8. Dictionaries are already: Arrow reads no others."""
    try:
        batch.validate(full=True)
        return batch
    except pa.ArrowInvalid:
        return pa.RecordBatch.from_arrays([_valid(column) for column in batch.columns], schema=batch.schema)


def _valid(column: pa.Array) -> pa.Array:
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        raw = column.cast(_as_bytes(column.type)).to_pylist()
        return pa.array([_decode(value, column.type) for value in raw], column.type)


def _as_bytes(type_: pa.DataType) -> pa.DataType:
    if is_text(type_):
        return pa.large_binary()
    if pat.is_list(type_):
        return pa.list_(type_.value_field.with_type(_as_bytes(type_.value_type)))
    if pat.is_large_list(type_):
        return pa.large_list(type_.value_field.with_type(_as_bytes(type_.value_type)))
    if pat.is_struct(type_):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in type_])
    if pat.is_map(type_):
        return pa.map_(_as_bytes(type_.key_type), _as_bytes(type_.item_type))
    return type_


def _decode(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if is_text(type_):
        return value.decode("utf-8", errors="replace")
    if pat.is_list(type_) or pat.is_large_list(type_):
        return [_decode(item, type_.value_type) for item in value]
    if pat.is_struct(type_):
        return {field.name: _decode(value[field.name], field.type) for field in type_}
    if pat.is_map(type_):
        return [(_decode(key, type_.key_type), _decode(item, type_.item_type)) for key, item in value]
    return value
