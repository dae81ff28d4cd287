"""Dead letters: written by comparison, so that two runs at once do not lose each other's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from docmill.data import storage
from docmill.data.dead_letters import DeadLetter, change_dead_letters, encode_dead_letters, read_dead_letters


def letter(task: str, row: int = 0) -> DeadLetter:
    failed_at = datetime(2026, 11, 20, tzinfo=UTC)
    return DeadLetter(
        task, "a.parquet", row, "id", "key", [1, 2], "{}", "killed_engine", "twice", 2, failed_at
    )


def test_they_are_read_back_as_they_were_in_the_order_of_rows(tmp_path: Path) -> None:
    uri = f"{tmp_path}/dead_letters.parquet"
    change_dead_letters(uri, lambda before: [letter("b", 1), letter("a", 1), letter("b", 0)])
    assert read_dead_letters(uri) == [letter("b", 0), letter("a", 1), letter("b", 1)]


def test_none_leave_no_file_where_there_was_none(tmp_path: Path) -> None:
    uri = f"{tmp_path}/dead_letters.parquet"
    change_dead_letters(uri, lambda before: before)
    assert not storage.exists(uri)
    assert read_dead_letters(uri) == []


def test_what_another_run_writes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    uri = f"{tmp_path}/dead_letters.parquet"
    seen: list[int] = []

    def add_ours(before: list[DeadLetter]) -> list[DeadLetter]:
        seen.append(len(before))
        if len(seen) == 1:
            change_dead_letters(uri, lambda others: [*others, letter("theirs")])
        return [*before, letter("ours")]

    change_dead_letters(uri, add_ours)
    assert seen == [0, 1]
    assert {found.task for found in read_dead_letters(uri)} == {"ours", "theirs"}


def test_all_repaired_leave_an_empty_file(tmp_path: Path) -> None:
    uri = f"{tmp_path}/dead_letters.parquet"
    storage.put_bytes(uri, encode_dead_letters([letter("a")]))
    change_dead_letters(uri, lambda before: [])
    assert storage.exists(uri)
    assert read_dead_letters(uri) == []


def test_a_file_that_is_something_else_is_written_anew(tmp_path: Path) -> None:
    uri = f"{tmp_path}/dead_letters.parquet"
    storage.put_bytes(uri, b"something else")
    assert read_dead_letters(uri) == []
    change_dead_letters(uri, lambda before: [*before, letter("a")])
    assert read_dead_letters(uri) == [letter("a")]
