"""A real corpus that is on every machine: the long descriptions of the installed Python distributions.

Nobody wrote it for us: README files with code, tables, badges, raw HTML and odd Unicode, from empty to 100 KB. Built
when it is needed, never committed.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pyarrow as pa

from docmill.data.shards import ShardWriter

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.string()),
        pa.field("author_summary", pa.string()),  # the author's own one-liner
        pa.field("topics", pa.list_(pa.string())),  # the author's `Topic ::` classifiers
        pa.field("description", pa.string()),
    ]
)
TOPIC = "Topic :: "


def write_distributions(shard_uri: str) -> int:
    """Write one shard with a row for each installed distribution, sorted by name. Returns how many."""
    rows = sorted(
        {row["name"]: row for row in map(_row, metadata.distributions())}.values(),
        key=lambda row: row["name"],
    )
    with ShardWriter(shard_uri, SCHEMA) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
        writer.commit()
    return len(rows)


def installed_distributions() -> str:
    """Names and versions of what `write_distributions` would write, a line each: changes when the corpus does."""
    found = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return "\n".join(f"{name}=={found[name]}" for name in sorted(found))


def _row(distribution: metadata.Distribution) -> dict[str, Any]:
    about = (
        distribution.metadata.json
    )  # lists where a field may repeat, the description from wherever it stands
    return {
        "name": distribution.name,
        "version": distribution.version,
        "author_summary": _printable(about.get("summary")),
        "topics": [
            topic.removeprefix(TOPIC) for topic in about.get("classifier", []) if topic.startswith(TOPIC)
        ],
        "description": _printable(about.get("description") or ""),
    }


def _printable(text: Any) -> str | None:
    """Metadata that is no UTF-8 comes out of `email` with surrogates, which Arrow cannot hold."""
    return None if text is None else str(text).encode("utf-8", errors="replace").decode()
