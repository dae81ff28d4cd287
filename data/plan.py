"""The plan of a partition: its work units, each a run of consecutive rows of one shard, every row in exactly one.

Made by `ops.planning`, stored as one Parquet file, read by every worker. A unit's id is a hash of what it covers, so
that a plan made anew (a shard more, a changed prompt) has the same ids for what did not change.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from docmill.data import storage
from docmill.data.errors import StorageNotFound

PLAN_VERSION = 2
_KEY = b"docmill.plan"

SCHEMA = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("shard_version", pa.string(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("num_rows", pa.int64(), nullable=False),
        pa.field("estimated_seconds", pa.float64(), nullable=False),  # of an engine, for all tasks
        pa.field("duplicate_rows", pa.list_(pa.int64()), nullable=False),
        pa.field("opening", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Unit:
    """What a worker claims: rows `first_row` to `first_row + num_rows` of one shard, for all tasks of the run."""

    shard: str
    shard_version: str
    first_row: int
    num_rows: int
    estimated_seconds: float
    duplicate_rows: tuple[int, ...] = ()  # rows of the shard whose id came before in the partition
    opening: str = ""  # 16 hex digits that stand for how most of its texts begin; empty where they differ
    ancestors: tuple[str, ...] = field(
        default=(), compare=False
    )  # units it was split from: their segments count

    @cached_property
    def id(self) -> str:
        """16 hex digits that stand for what the unit covers."""
        content = f"{self.shard}|{self.shard_version}|{self.first_row}|{self.num_rows}|{self.duplicate_rows}"
        return xxhash.xxh3_64_hexdigest(content.encode())

    @property
    def end_row(self) -> int:
        """The row after the last."""
        return self.first_row + self.num_rows

    def split(self, at_row: int) -> tuple[Unit, Unit]:
        """The same rows as two units, the second starting at `at_row`."""
        assert self.first_row < at_row < self.end_row
        return self._part(self.first_row, at_row), self._part(at_row, self.end_row)

    def _part(self, start: int, end: int) -> Unit:
        return Unit(
            self.shard,
            self.shard_version,
            start,
            end - start,
            self.estimated_seconds * (end - start) / self.num_rows,
            tuple(row for row in self.duplicate_rows if start <= row < end),
            self.opening,
            (*self.ancestors, self.id),
        )


@dataclass(frozen=True)
class PlannedShard:
    """One input file as the plan found it. `error` where it cannot be used; then it has no units."""

    name: str
    uri: str
    num_bytes: int
    version: str
    num_rows: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Plan:
    """All units of a partition in the order in which they are best worked on."""

    job: str
    partition: str
    tasks: list[str]
    fingerprint: str  # of the settings and the model: what answers depend on besides the documents
    shards: list[PlannedShard]
    units: list[Unit]

    @cached_property
    def id(self) -> str:
        """16 hex digits; equal for equal documents and settings."""
        parts = [self.fingerprint, *(f"{shard.name}|{shard.version}" for shard in self.shards)]
        parts += [unit.id for unit in self.units]
        return xxhash.xxh3_64_hexdigest("\n".join(parts).encode())

    @cached_property
    def num_documents(self) -> int:
        """Rows of all usable shards."""
        return sum(unit.num_rows for unit in self.units)

    @cached_property
    def estimated_seconds(self) -> float:
        """Of one engine."""
        return sum(unit.estimated_seconds for unit in self.units)


def encode_plan(plan: Plan) -> bytes:
    """The plan as a Parquet file."""
    head = {
        "version": PLAN_VERSION,
        "job": plan.job,
        "partition": plan.partition,
        "tasks": plan.tasks,
        "fingerprint": plan.fingerprint,
        "shards": [asdict(shard) for shard in plan.shards],
    }
    rows = [
        {
            "unit_id": unit.id,
            **{name: getattr(unit, name) for name in SCHEMA.names[1:]},
        }
        for unit in plan.units
    ]
    schema = SCHEMA.with_metadata({_KEY: json.dumps(head).encode()})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def read_plan(uri: str) -> tuple[Plan | None, str | None]:
    """The plan at `uri` and the version of the object; None for a plan of another docmill, or where there is none."""
    try:
        content, version = storage.read_versioned(uri)
    except StorageNotFound:
        return None, None
    try:
        return _decode(content), version
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError):
        return None, version


def _decode(content: bytes) -> Plan | None:
    table = pq.read_table(io.BytesIO(content))
    head = json.loads((table.schema.metadata or {})[_KEY])
    if head.pop("version") != PLAN_VERSION or table.schema.names != SCHEMA.names:
        return None
    shards = [PlannedShard(**shard) for shard in head.pop("shards")]
    units = []
    for row in table.to_pylist():
        del row["unit_id"]
        units.append(Unit(**{**row, "duplicate_rows": tuple(row["duplicate_rows"])}))
    return Plan(**head, shards=shards, units=units)
