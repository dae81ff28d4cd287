"""Near-duplicates as people see them: in the plan, the report, beside the answers, and in the catalogue."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from readme import told_block
from similar_texts import Writer

from docmill.data.schemas import NEAR_DUPLICATE_OF
from docmill.ops.report import Report
from docmill.pipelines import asset_metadata, catalogue
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"

WriteJob = Callable[..., Path]
Cli = Any


@pytest.fixture
def write_near_job(write_job: WriteJob) -> Callable[[str | None], Path]:
    """A job over ten texts and one that is like each; `mode` as YAML has it."""

    def write(mode: str | None) -> Path:
        changes = {} if mode is None else {"reuse": {"near_duplicates": mode}}
        path = write_job(source__generate=None, source__carry=[], source__start_date=DAY, **changes)
        writer, texts = Writer(1), []
        for _ in range(10):
            words = writer.text(80)
            texts += [writer.join(words), writer.join(writer.edited(words, 1))]
        folder = path.parent / "documents" / f"dt={DAY}"
        folder.mkdir(parents=True, exist_ok=True)
        ids = [f"{name}-{number}" for number in range(10) for name in ("first", "second")]
        pq.write_table(pa.table({"doc_id": ids, "text": texts}), folder / "part.parquet")
        return path

    return write


def test_a_report_is_asked_for_and_read(write_near_job: Callable[..., Path], cli: Cli) -> None:
    path = write_near_job("report")
    planned = cli("plan", path, "--partition", DAY, "--probe", "0").stdout
    assert (
        "alike      10 documents are near-duplicates of 10 others (similarity at least 0.9, the largest group has 2)"
        in planned
    )
    assert re.search(
        r"`reuse: \{near_duplicates: answers\}` would spare about (4|5)\d\.\d% of the work\n", planned
    )
    assert len(re.findall(r"second-\d is about 0\.9\d like first-\d\n", planned)) == 3
    ran = cli("run", path, "--partition", DAY).stdout
    assert re.search(r"answers\}` would have spared about (4|5)\d\.\d% of the work, \d\.\d{4} USD\n", ran)
    assert "as near-duplicates of" not in ran


def test_answers_that_were_taken_over_are_told_apart_everywhere(
    write_near_job: Callable[..., Path], cli: Cli
) -> None:
    path = write_near_job("answers")
    expected = cli.json("plan", path, "--partition", DAY, "--probe", "0")
    assert [task["near_duplicate_requests"] for task in expected["tasks"].values()] == [10, 10]
    assert "they take their answers" in cli("plan", path, "--partition", DAY, "--probe", "0").stdout
    ran = cli("run", path, "--partition", DAY).stdout
    assert "spared     20 as near-duplicates of 40 requests" in ran
    assert re.search(rf"see column {NEAR_DUPLICATE_OF}; this has spared about \d\.\d{{4}} USD\n", ran)
    shown = cli.json("show", path, "--partition", DAY, "--limit", "100")
    of = {row["doc_id"]: row["answers"]["topics"][NEAR_DUPLICATE_OF] for row in shown}
    assert of == {f"second-{n}": f"first-{n}" for n in range(10)} | {f"first-{n}": None for n in range(10)}
    assert "[as first-0]" in cli("show", path, "--partition", DAY, "--limit", "2").stdout


def test_the_catalogue_has_the_figures_and_describes_the_column(
    write_near_job: Callable[..., Path], cli: Cli
) -> None:
    path = write_near_job("answers")
    report = Report.model_validate(cli.json("run", path, "--partition", DAY))
    job = load_job(str(path))
    partition = job.partition(DAY)
    task = asset_metadata.task_metadata(job, partition, report, "topics")
    assert (task["near_duplicate_requests"], task["near_duplicate_rows"]) == (10, 10)
    columns = {column.name: column for column in task["dagster/column_schema"].columns}
    assert columns[NEAR_DUPLICATE_OF].description != catalogue.describe_column(job, "something carried")
    whole = asset_metadata.report_metadata(job, partition, report)
    assert whole["near_duplicates"].data["documents"] == 10


def test_where_nothing_is_alike_it_says_so_and_by_default_nothing(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(reuse={"near_duplicates": "report", "similarity": 1.0})
    assert (
        "alike      no document is a near-duplicate of another (similarity at least 1)"
        in cli("run", path, "--partition", DAY).stdout
    )
    path = write_job()
    assert "alike   " not in cli("run", path, "--partition", DAY).stdout


def test_the_readmes_line_fits_into_any_job_and_off_needs_no_quotes(write_job: WriteJob) -> None:
    values = yaml.safe_load(told_block("yaml", "reuse: {near_duplicates"))
    assert load_job(str(write_job(**values))).reuse.near_duplicates == "report"
    text = write_job().read_text() + "reuse: {near_duplicates: off}\n"
    assert load_job(str(write_job(text=text))).reuse.near_duplicates == "off"
