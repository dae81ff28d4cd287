"""The columns of the output, which others read by name and type."""

from __future__ import annotations

import pyarrow as pa

from docmill.data.schemas import COMMON_COLUMNS, JOB_KEY, VERSION_KEY, answer_schema


def test_output_columns_are_the_documents_then_the_status_the_tasks_and_the_common_ones() -> None:
    carried = pa.schema([pa.field("id", pa.int64()), pa.field("lang", pa.string())])
    schema = answer_schema(carried, [pa.field("summary", pa.string())], job="tickets")
    assert schema.names == [
        "id", "lang", "status", "summary", "error", "prompt_tokens", "cached_tokens", "output_tokens",
        "finish_reason", "request_key", "model", "produced_at",
    ]  # fmt: skip
    assert set(schema.names) - {"id", "lang", "summary"} == COMMON_COLUMNS


def test_carried_columns_keep_their_types_and_every_file_says_its_version() -> None:
    dictionary = pa.dictionary(pa.int32(), pa.string())
    carried = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("lang", dictionary)],
                        metadata={"pandas": "{}"})  # fmt: skip
    schema = answer_schema(carried, [], job="tickets")
    assert schema.field("id") == pa.field("id", pa.int64(), nullable=False)
    assert schema.field("lang").type == dictionary
    assert schema.metadata == {VERSION_KEY: b"1", JOB_KEY: b"tickets"}


def test_what_is_always_there_is_declared_so() -> None:
    schema = answer_schema(pa.schema([]), [], job="tickets")
    always = {"status", "prompt_tokens", "cached_tokens", "output_tokens", "model", "produced_at"}
    assert {field.name for field in schema if not field.nullable} == always
