"""What flows through docmill. Start reading here.

A `Document` is one row of a shard. `ops/` asks every task of the job about it; each gives an `Answer`, a row of
that task's output, in the same position of a file with the same name. Nothing is dropped: a row that cannot be
asked about still gives an `Answer`, with a status and a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a row ended. `in = ok + failed + skipped`, always."""

    OK = "ok"
    FAILED = "failed"  # something is wrong with the row, or the engine could not answer it
    SKIPPED = "skipped"  # nothing is wrong, but there is nothing to ask: empty or shorter than the job wants


@dataclass(frozen=True, slots=True)
class Partition:
    """What one run covers: one folder `key=value` of the source, or, with no key, the whole source."""

    key: str | None = None
    value: str | None = None

    @property
    def folder(self) -> str:
        """Name of the folder in hive notation, `dt=2026-11-20`; empty for an unpartitioned source."""
        return f"{self.key}={self.value}" if self.key else ""

    def __str__(self) -> str:
        return self.folder or "all"


@dataclass(frozen=True, slots=True)
class Shard:
    """One input Parquet file. `name` is its path inside the partition and also the name of its output files."""

    name: str
    uri: str
    num_bytes: int
    version: str  # changes when the file changes: the store's ETag, else size and modification time


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a shard. `text` is None where the row holds null; invalid UTF-8 was replaced by U+FFFD."""

    doc_id: str | None
    text: str | None
    row: int  # position in the shard, from 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens one answer cost, added up over all its requests. Cached tokens are part of the prompt tokens."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.num_prompt_tokens + other.num_prompt_tokens,
            self.num_cached_tokens + other.num_cached_tokens,
            self.num_output_tokens + other.num_output_tokens,
        )


NO_USAGE = Usage()


# Not frozen: that trebles what it takes to make one, and there is one for each row of each task. Nobody changes it.
@dataclass(slots=True)
class Answer:
    """One output row of one task. `fields` holds the task's own columns; all None unless `status` is ok."""

    status: Status
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None  # "reason: explanation"; the reason is a fixed word that reports count by
    usage: Usage = NO_USAGE
    finish_reason: str | None = None  # "stop", or "length" where at least one request was cut off
    request_key: str | None = None
    num_requests: int = 0  # asked for it, those answered in an earlier run included
    num_duplicates: int = 0  # of them, those answered by an equal request of another row
    num_reused: int = 0  # of them, those answered in a run that was finished before
    num_near_duplicates: int = 0  # of them, those answered by a request of the row that this one is like
    spared: Usage = NO_USAGE  # the part of `usage` that is of these three: nothing of it was computed
    spared_by_near_duplicates: Usage = NO_USAGE  # the part of `spared` that is of the last
    near_duplicate_of: str | None = None  # id of the document that was asked about in the place of this one

    @property
    def reason(self) -> str | None:
        """The fixed word before the colon of `error`."""
        return self.error.split(":", 1)[0] if self.error else None
