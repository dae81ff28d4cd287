"""Parquet files for the tests of data/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.data.records import Shard


@pytest.fixture
def write_shard(tmp_path: Path) -> Callable[..., Shard]:
    """`write_shard({"doc_id": [...], "text": [...]}, row_group_size=2)` writes a file and gives its shard."""

    def write(columns: dict[str, Any] | pa.Table, **options: Any) -> Shard:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / "a.parquet", **options)
        return storage.list_shards(str(tmp_path))[0]

    return write
