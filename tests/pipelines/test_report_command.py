"""`docmill report`: sums over days on the terminal, rows in a file, and errors that name what there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"
DOCUMENTS = 12

WriteJob = Callable[..., Path]
Cli = Any


@pytest.fixture
def two_days(finished_job: Path, cli: Cli) -> Path:
    assert cli("run", finished_job, "--partition", OTHER_DAY).exit_code == 0
    return finished_job


def layout(job_file: Path, day: str) -> Layout:
    return Layout(load_job(str(job_file)).output.uri, Partition("dt", day))


def test_days_are_added_up_by_task_and_in_all(two_days: Path, cli: Cli) -> None:
    told = cli.json("report", two_days)
    reports = [json.loads(Path(layout(two_days, day).report).read_text()) for day in (OTHER_DAY, DAY)]
    assert [(row["partition"], row["task"]) for row in told["days"]] == [
        (OTHER_DAY, "translations"),
        (OTHER_DAY, "topics"),
        (DAY, "translations"),
        (DAY, "topics"),
    ]
    assert told["total"]["documents"] == 2 * DOCUMENTS
    assert told["total"]["usd"] == pytest.approx(sum(report["cost"]["usd"] for report in reports))
    topics = told["tasks"]["topics"]
    assert topics["prompt_tokens"] == sum(report["tasks"]["topics"]["tokens"]["prompt"] for report in reports)
    assert topics["usd_per_1000_documents"] == pytest.approx(topics["usd"] / (2 * DOCUMENTS) * 1000)
    assert told["total"]["failed_share"] == 0
    assert told["total"]["over_estimate"] is None
    assert told["not_finished"] == told["unreadable"] == []


def test_the_table_has_a_row_a_task_and_one_for_all(two_days: Path, cli: Cli) -> None:
    shown = cli("report", two_days).stdout
    rows = {line.split()[0]: line for line in shown.splitlines() if line.split()}
    assert {"translations", "topics", "all"} <= set(rows)
    assert rows["all"].split()[1] == f"{2 * DOCUMENTS}"
    assert f"days       2, {OTHER_DAY} to {DAY}" in shown


def test_one_day_alone_names_its_page(two_days: Path, cli: Cli) -> None:
    shown = cli("report", two_days, "--partition", DAY).stdout
    assert f"days       {DAY}" in shown
    assert f"page       {layout(two_days, DAY).report_page}" in shown
    assert cli.json("report", two_days, "--from", DAY, "--to", f"dt={DAY}")["total"]["documents"] == DOCUMENTS


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_rows_can_be_written_to_a_file(two_days: Path, cli: Cli, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep" / f"days.{kind}"
    assert f"written    {path}" in cli("report", two_days, f"--{kind}", path).stdout
    found = pl.read_csv(path) if kind == "csv" else pl.read_parquet(path)
    told = cli.json("report", two_days)["days"]
    assert found.columns == list(told[0])
    assert found.select("partition", "task", "requests").rows() == [
        (row["partition"], row["task"], row["requests"]) for row in told
    ]
    assert found["usd"].sum() == pytest.approx(sum(row["usd"] for row in told))


def test_what_was_expected_stands_beside_the_bill(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(engine={"kind": "fake", "extra": {"step_seconds": 0.01}})
    assert cli("run", path, "--partition", OTHER_DAY).exit_code == 0
    assert cli("plan", path, "--partition", DAY, "--probe", "0").exit_code == 0
    assert cli("run", path, "--partition", DAY).exit_code == 0
    total = cli.json("report", path)["total"]
    days = {row["partition"]: row for row in cli.json("report", path)["days"]}
    assert days[OTHER_DAY]["usd_expected"] is None
    assert total["usd_expected"] > 0
    assert 0 < total["usd_of_expected"] < total["usd"]
    assert "of 1 planned before; it was" in cli("report", path).stdout


def test_days_that_are_not_finished_are_named(finished_job: Path, cli: Cli) -> None:
    assert f"missing    no finished run of {OTHER_DAY}" in cli("report", finished_job).stdout
    assert cli.json("report", finished_job)["not_finished"] == [OTHER_DAY]
    assert cli.json("report", finished_job, "--from", DAY)["not_finished"] == []


def test_a_report_of_another_version_is_left_out_and_named(two_days: Path, cli: Cli) -> None:
    Path(layout(two_days, OTHER_DAY).report).write_text('{"report_version": 99}')
    shown = cli("report", two_days)
    assert f"unreadable {OTHER_DAY}" in shown.stdout
    alone = cli("report", two_days, "--partition", OTHER_DAY)
    assert alone.exit_code == ExitCode.USAGE
    assert "of another version of docmill; run the partition again" in alone.stderr


def test_without_a_price_the_cost_is_unknown(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(prices=None)
    assert cli("run", path, "--partition", DAY).exit_code == 0
    assert f"no price   for the device of {DAY}" in cli("report", path).stdout
    assert cli.json("report", path)["total"]["usd"] is None


def test_a_job_without_partitions_has_one_report(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source={"uri": "own", "partition_key": None})
    (path.parent / "own").mkdir()
    pl.DataFrame({"doc_id": ["1"], "text": ["one"]}).write_parquet(path.parent / "own" / "a.parquet")
    assert cli("run", path).exit_code == 0
    assert cli.json("report", path)["days"][0]["partition"] == "all"
    refused = cli("report", path, "--from", DAY)
    assert refused.exit_code == ExitCode.USAGE
    assert "is not partitioned" in refused.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", DAY, "--to", OTHER_DAY], f"--from {DAY} is after --to {OTHER_DAY}"),
        (["--from", "yesterday"], "--from takes a day such as 2026-11-20, not 'yesterday'"),
        (["--to", "2026-11-31"], "--to takes a day such as 2026-11-20, not '2026-11-31'"),
        (["--partition", DAY, "--to", DAY], "leave one of them out"),
        (
            ["--partition", OTHER_DAY],
            f"partition {OTHER_DAY} has no finished run; those that have one: {DAY}",
        ),
        (
            ["--from", "2027-01-01"],
            f"no partition has a finished run in these days; those that have one: {DAY}",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_there_is(
    finished_job: Path, cli: Cli, options: list[str], expected: str
) -> None:
    refused = cli("report", finished_job, *options)
    assert refused.exit_code == ExitCode.USAGE
    assert expected in refused.stderr
    assert refused.stdout == ""


def test_a_job_that_never_ran_names_the_command_that_does(write_job: WriteJob, cli: Cli) -> None:
    refused = cli("report", write_job())
    assert refused.exit_code == ExitCode.USAGE
    assert "`docmill run tickets --partition 2026-11-20` makes one" in refused.stderr


def test_an_unknown_job_is_refused(cli: Cli) -> None:
    refused = cli("report", "nothing")
    assert refused.exit_code == ExitCode.USAGE
    assert "there is no job of this name" in refused.stderr
