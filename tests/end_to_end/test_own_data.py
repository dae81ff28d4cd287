"""A new user's own data, as the README tells it: other column names, one YAML file, no change to our code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's example, run by its own command on the real vLLM in a process of its own."""
    folder = tmp_path_factory.mktemp("new-user")
    example = re.search(
        r"tests/end_to_end/test_own_data\.py -->\n```yaml\n(.*?)```", README.read_text(), re.DOTALL
    )
    assert example, "the README's example is gone"
    (folder / "reviews.yaml").write_text(example[1])
    reviews = pl.DataFrame(
        {
            "review_id": [11, 12, 13, 14],
            "body": ["Die Lieferung kam zu spät.", "Rechnung 4711 ist falsch.", "", "产品很好。"],
            "stars": [2, 1, None, 5],
            "internal_note": ["not", "carried", "along", "!"],
        }
    )
    (folder / "reviews" / "2026").mkdir(parents=True)
    reviews.head(3).write_parquet(folder / "reviews" / "first.parquet")
    reviews.tail(1).write_parquet(folder / "reviews" / "2026" / "second.parquet")
    docmill = Path(sys.executable).with_name("docmill")
    done = subprocess.run(
        [docmill, "run", "reviews.yaml", "--json"], cwd=folder, capture_output=True, text=True, timeout=280,
        env=os.environ | {"DOCMILL_HOME": str(folder / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "report.json").write_text(done.stdout)
    return folder


def test_each_row_has_its_answers_with_its_own_id_and_carried_columns(folder: Path) -> None:
    for task, column in (("english", "translation"), ("topic", "label"), ("gist", "summary")):
        answers = pl.read_parquet(f"{folder}/answers/{task}/**/*.parquet").sort("review_id")
        assert answers["review_id"].to_list() == [11, 12, 13, 14]
        assert answers["stars"].to_list() == [2, 1, None, 5]
        assert answers["status"].to_list() == ["ok", "ok", "skipped", "ok"]
        assert answers[column].is_null().to_list() == [False, False, True, False]
        assert "internal_note" not in answers.columns
        assert (folder / "answers" / task / "2026" / "second.parquet").exists()


def test_the_readmes_queries_read_the_answers(folder: Path) -> None:
    lazy = pl.scan_parquet(f"{folder}/answers/english/**/*.parquet", hive_partitioning=True)
    assert lazy.filter(pl.col("status") == "ok").collect().height == 3
    query = re.search(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    assert query
    with duckdb.connect() as connection:
        rows = connection.sql(query[1].replace("answers/", f"{folder}/answers/")).fetchall()
    assert sum(count for _, count in rows) == 4
    assert {label for label, _ in rows} <= {"delivery", "billing", "warranty", None}


def test_the_report_accounts_for_every_row(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["documents"] == 4
    for task in report["tasks"].values():
        assert task["counts"] == {"rows": 4, "ok": 3, "failed": 0, "skipped": 1}
        assert task["errors"] == {"text_empty": 1}
    assert report["cost"]["usd"] > 0
