"""The corpus that is on every machine."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from docmill.data.distributions import SCHEMA, write_distributions


def test_every_installed_distribution_is_one_row(tmp_path: Path) -> None:
    uri = str(tmp_path / "distributions.parquet")
    num_rows = write_distributions(uri)
    table = pq.read_table(uri)
    names = table.column("name").to_pylist()
    assert table.schema == SCHEMA
    assert num_rows == len(names) == len(set(names))
    assert set(names) == {distribution.name for distribution in metadata.distributions()}
    assert names == sorted(names)
    assert pl.read_parquet(uri).height == num_rows  # Polars checks every string


def test_summary_topics_and_description_are_the_authors(tmp_path: Path) -> None:
    write_distributions(str(tmp_path / "a.parquet"))
    row = next(row for row in pq.read_table(tmp_path / "a.parquet").to_pylist() if row["name"] == "pytest")
    assert row["version"] == metadata.version("pytest")
    assert row["author_summary"] == metadata.metadata("pytest")["Summary"]
    assert "Software Development :: Testing" in row["topics"]
    assert "pytest" in row["description"]
