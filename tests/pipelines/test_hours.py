"""A job whose partitions are hours: the same from the command line and in Dagster, under the names of its folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dagster import DagsterInstance, materialize

from docmill.data import scan_answers
from docmill.ops.errors import JobError
from docmill.pipelines.assets import answer_assets, documents_asset
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job

WriteJob = Callable[..., Path]
HOURS = ["2026-11-19-23", "2026-11-20-04", "2026-11-20-05"]


@pytest.fixture
def path(write_job: WriteJob, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job over three hours, which Dagster knows."""
    path = write_job(
        source__generate=None,
        source__carry=None,
        source__partition_every="hour",
        source__start_date="2026-11-19",
    )
    for hour in HOURS:
        write_hour(path, hour)
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    return path


def write_hour(path: Path, hour: str) -> None:
    folder = path.parent / "documents" / f"dt={hour}"
    folder.mkdir(parents=True)
    texts = pl.DataFrame({"doc_id": [f"{hour} {row}" for row in range(4)], "text": ["Hallo."] * 4})
    texts.write_parquet(folder / "a.parquet")


def test_hours_are_run_told_and_read_from_the_command_line(path: Path, cli: Any) -> None:
    for hour in HOURS:
        assert cli("run", path, "--partition", f"dt={hour}").exit_code == 0
    assert cli.json("status", path, "--partition", HOURS[1])["state"] == "finished"
    assert cli.json("plan", path, "--partition", HOURS[1])["documents"] == 4
    assert "Hallo" in cli("show", path, "--partition", HOURS[2]).stdout
    for options, told in (
        ([], HOURS),
        (["--partition", HOURS[1]], HOURS[1:2]),
        (["--from", HOURS[1], "--to", "2026-11-20"], HOURS[1:]),  # a day is all its hours
        (["--from", "2026-11-19", "--to", "2026-11-19"], HOURS[:1]),
    ):
        rows = cli.json("report", path, *options)["days"]
        assert sorted({row["partition"] for row in rows}) == told, options
    assert f"hours      3, {HOURS[0]} to {HOURS[2]}" in cli("report", path).stdout
    uri = load_job(str(path)).output.uri
    read = scan_answers(uri, "topics", first="2026-11-20", last="2026-11-20").collect()
    assert sorted(read["dt"].unique()) == HOURS[1:]
    plain = pl.read_parquet(f"{uri}/topics/**/*.parquet", hive_partitioning=True)
    assert sorted(plain["dt"].unique()) == HOURS, "any reader finds the hour, as text"


def test_an_hour_is_materialised_with_its_checks(path: Path) -> None:
    job = load_job(str(path))
    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            [documents_asset(job), answer_assets(job)], partition_key=HOURS[2], instance=instance
        )
    assert {event.partition for event in result.get_asset_materialization_events()} == {HOURS[2]}
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["label_shift"].description == "fewer than 100 labels in this hour or the 7 days before it"
    assert all(check.passed for check in checks.values())
    assert (Path(job.output.uri) / "topics" / f"dt={HOURS[2]}" / "a.parquet").exists()


def test_a_backfill_takes_the_hours_of_the_days_that_are_named(path: Path, cli: Any) -> None:
    assert cli("run", path, "--partition", HOURS[1]).exit_code == 0
    write_hour(path, "2999-01-01-00")
    found = cli.json("backfill", path, "--dry-run")["days"]
    assert found == {"to_run": [HOURS[0], HOURS[2]], "up_to_date": [HOURS[1]], "not_over": ["2999-01-01-00"]}
    one_day = cli.json("backfill", path, "--dry-run", "--from", "2026-11-20", "--to", "2026-11-20")["days"]
    assert (one_day["to_run"], one_day["not_over"]) == ([HOURS[2]], [])
    launched = cli("backfill", path)
    assert f"hours      2 to run, {HOURS[0]} to {HOURS[2]}" in launched.stdout
    assert "2 hours in Dagster's hands" in launched.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--partition", "2026-11-20"], f"such as 2026-11-20-05; the source has {', '.join(HOURS)}"),
        (["report", "--from", "2026-11-20-5"], "a day such as 2026-11-20 or an hour such as 2026-11-20-05"),
        (
            ["report", "--from", "2026-11-20-05", "--to", "2026-11-19"],
            "--from 2026-11-20-05 is after --to 2026-11-19",
        ),
    ],
)
def test_what_is_no_hour_is_refused_with_an_example(
    arguments: list[str], words: str, path: Path, cli: Any
) -> None:
    result = cli(arguments[0], path, *arguments[1:])
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source__partition_every": "hour"}, "source.partition_every: the demo corpus lies in days"),
        (
            {"source": {"uri": "x", "partition_key": None, "partition_every": "hour"}},
            "source.partition_every: the whole source is one partition",
        ),
        ({"source__partition_every": "week"}, "source.partition_every: expected 'day' or 'hour', got 'week'"),
    ],
)
def test_an_hour_of_nothing_is_an_error_of_the_job_file(
    changes: dict[str, Any], words: str, write_job: WriteJob
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(str(write_job(**changes)))
    assert words in str(caught.value)
