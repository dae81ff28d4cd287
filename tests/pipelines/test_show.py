"""Answers beside their documents."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from docmill.pipelines.exit_codes import ExitCode

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"

WriteJob = Callable[..., Path]
Cli = Any


def test_answers_stand_beside_the_text_of_their_own_document(finished_job: Path, cli: Cli) -> None:
    rows = cli.json("show", finished_job, "--partition", DAY, "--limit", 100)
    documents = pl.read_parquet(f"{finished_job.parent}/documents/dt={DAY}/*.parquet")
    answers = pl.read_parquet(f"{finished_job.parent}/answers/topics/dt={DAY}/*.parquet")
    assert [row["doc_id"] for row in rows] == documents["doc_id"].to_list()
    assert [row["text"] for row in rows] == documents["text"].to_list()
    assert [row["answers"]["topics"]["label"] for row in rows] == answers["label"].to_list()
    assert [(row["shard"], row["row"]) for row in rows[:7]] == [
        *[("part-0000.parquet", row) for row in range(6)],
        ("part-0001.parquet", 0),
    ]


def test_the_table_has_a_column_a_task(finished_job: Path, cli: Cli) -> None:
    result = cli("show", finished_job, "--partition", DAY, "--limit", 2)
    assert result.exit_code == 0
    assert "translations" in result.stdout
    assert "topics" in result.stdout
    assert result.stdout.count("demo-1-") == 2
    only = cli("show", finished_job, "--partition", DAY, "--task", "topics")
    assert "translations" not in only.stdout


def test_a_task_that_has_not_run_yet_says_so(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    cli("run", path, "--partition", DAY, "--tasks", "topics")
    assert "not run yet" in cli("show", path, "--partition", DAY).stdout


def test_failed_rows_can_be_shown_alone(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source__generate__hostile=True)
    cli("run", path, "--partition", OTHER_DAY)
    rows = cli.json("show", path, "--partition", OTHER_DAY, "--failed", "--limit", 1000)
    assert rows
    assert all(any(answer["status"] == "failed" for answer in row["answers"].values()) for row in rows)
    assert {row["shard"] for row in rows} == {"hostile.parquet"}
    assert "failed: " in cli("show", path, "--partition", OTHER_DAY, "--failed").stdout


def test_no_failed_rows_is_no_error(finished_job: Path, cli: Cli) -> None:
    assert cli.json("show", finished_job, "--partition", DAY, "--failed") == []
    assert "no document has a failed task" in cli("show", finished_job, "--partition", DAY, "--failed").stdout


def test_control_characters_never_reach_the_terminal(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source={"uri": "own", "partition_key": None})
    (path.parent / "own").mkdir()
    text = "\x1b]0;owned\x07\x1b[2Jhello \u202eolleh [red]markup[/red]"
    pl.DataFrame({"doc_id": ["\x1b[31mid"], "text": [text]}).write_parquet(path.parent / "own" / "a.parquet")
    assert cli("run", path).exit_code == 0
    shown = cli("show", path).stdout
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert "[red]markup[/red]" in shown


def test_text_that_changed_since_is_left_out(finished_job: Path, cli: Cli) -> None:
    shard = finished_job.parent / "documents" / f"dt={DAY}" / "part-0000.parquet"
    pl.read_parquet(shard).reverse().write_parquet(shard)
    rows = cli.json("show", finished_job, "--partition", DAY, "--limit", 6)
    assert {row["text"] for row in rows} == {None}
    os.remove(shard)
    assert "the shard has changed since" in cli("show", finished_job, "--partition", DAY, "--limit", 1).stdout


def test_answers_of_another_document_are_left_out(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source={"uri": "own", "partition_key": None})
    (path.parent / "own").mkdir()
    shard = path.parent / "own" / "a.parquet"
    pl.DataFrame({"doc_id": ["1", "2"], "text": ["one", "two"]}).write_parquet(shard)
    assert cli("run", path).exit_code == 0
    pl.DataFrame({"doc_id": ["1", "9", "3"], "text": ["one", "nine", "three"]}).write_parquet(shard)
    assert cli("run", path, "--tasks", "topics").exit_code == 0
    assert [(row["doc_id"], row["text"], sorted(row["answers"])) for row in cli.json("show", path)] == [
        ("1", "one", ["topics", "translations"]),
        ("9", "nine", ["topics"]),  # the translation in this row is of "two"
        ("3", "three", ["topics"]),  # the file of translations ends before this row
    ]
    assert "not run yet" in cli("show", path).stdout


@pytest.mark.parametrize(
    "changes",
    [
        {"source__id_column": "language"},  # in the answers, as a carried column, but not their id
        {"source__id_column": "number", "source__carry": []},
        {"tasks__topics": {"kind": "summarize"}, "tasks__translations": None},  # another kind, other columns
    ],
)
def test_answers_of_a_job_that_was_another_do_not_break_it(
    finished_job: Path, write_job: WriteJob, cli: Cli, changes: dict[str, Any]
) -> None:
    shown = cli("show", write_job(**changes), "--partition", DAY)
    assert "unexpected" not in shown.stderr
    if "source__id_column" not in changes or "source__carry" in changes:
        assert shown.exit_code == ExitCode.USAGE
        assert "there are no answers in" in shown.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_day_without_answers_names_the_command_that_makes_them(
    write_job: WriteJob, cli: Cli, as_json: bool
) -> None:
    arguments = ["show", write_job(), "--partition", DAY]
    expected = f"make them with `docmill run tickets --partition {DAY}`"
    if as_json:
        assert expected in cli.json(*arguments, exit_code=ExitCode.USAGE)["error"]["message"]
    else:
        assert expected in cli(*arguments).stderr
