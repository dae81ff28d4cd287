"""Arrow schemas of what docmill writes, and the checks of what it reads. Versioned: a reader can tell what it has.

Output of a task = the document's id column and the carried columns as they were in the shard (name and type), then
the common columns below with the task's own columns in the middle.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pat

from docmill.data.errors import ShardSchemaError

ANSWERS_VERSION = 1  # raise when a column of the output changes its name, type or meaning
VERSION_KEY = b"docmill.answers_version"
JOB_KEY = b"docmill.job"  # whose file it is: a run removes only files of its own job

BEFORE_TASK = [pa.field("status", pa.string(), nullable=False)]
AFTER_TASK = [
    pa.field("error", pa.string()),
    pa.field("prompt_tokens", pa.int32(), nullable=False),
    pa.field("cached_tokens", pa.int32(), nullable=False),
    pa.field("output_tokens", pa.int32(), nullable=False),
    pa.field("finish_reason", pa.string()),
    pa.field("request_key", pa.string()),
    pa.field("model", pa.string(), nullable=False),
    pa.field("produced_at", pa.timestamp("us", tz="UTC"), nullable=False),
]
# The last column, where near-duplicates take the answers of others: the id of the document that was really asked about.
NEAR_DUPLICATE_OF = "near_duplicate_of"
COMMON_COLUMNS = frozenset(field.name for field in (*BEFORE_TASK, *AFTER_TASK))


def answer_schema(
    carried: pa.Schema, task_fields: list[pa.Field], *, job: str, near_duplicates: bool = False
) -> pa.Schema:
    """Schema of one task's output files, for a shard whose id (the first) and carried columns are `carried`.

    `near_duplicates`: with the column that tells whose answer a row has; of the id's own type, to be joined with it.
    """
    metadata = {VERSION_KEY: str(ANSWERS_VERSION).encode(), JOB_KEY: job.encode()}
    fields = [*carried.remove_metadata(), *BEFORE_TASK, *task_fields, *AFTER_TASK]
    if near_duplicates:
        fields.append(pa.field(NEAR_DUPLICATE_OF, _value_type(carried.field(0).type)))
    return pa.schema(fields, metadata=metadata)


def check_shard_schema(
    shard_uri: str, schema: pa.Schema, *, id_column: str, text_column: str, carry: list[str]
) -> None:
    """Raise `ShardSchemaError` unless the shard has the columns that the job names, with usable types."""
    missing = [name for name in (id_column, text_column, *carry) if name not in schema.names]
    if missing:
        raise ShardSchemaError(
            shard_uri,
            f"column {', '.join(map(repr, missing))} is missing; the file has {', '.join(map(repr, schema.names))}. "
            "Name the right columns in the job's `source` (id_column, text_column, carry)",
        )
    doubled = [name for name in (id_column, text_column, *carry) if schema.names.count(name) > 1]
    if doubled:
        raise ShardSchemaError(
            shard_uri,
            f"column {', '.join(map(repr, doubled))} stands in the file more than once; give each one name",
        )
    text_type = _value_type(schema.field(text_column).type)
    if not (is_text(text_type) or pat.is_binary(text_type) or pat.is_large_binary(text_type)):
        raise ShardSchemaError(
            shard_uri, f"text column {text_column!r} must hold strings (or UTF-8 bytes), it holds {text_type}"
        )
    id_type = _value_type(schema.field(id_column).type)
    if not (is_text(id_type) or pat.is_integer(id_type)):
        raise ShardSchemaError(
            shard_uri, f"id column {id_column!r} must hold strings or integers, it holds {id_type}"
        )


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pat.is_dictionary(type_) else type_


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return pat.is_string(type_) or pat.is_large_string(type_) or pat.is_string_view(type_)
