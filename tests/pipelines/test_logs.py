"""Log lines: where they go, how loud they are, and what never stands in one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from docmill.data.errors import StorageUnreachable
from docmill.data.retries import with_retries
from docmill.pipelines.logs import configure_logs, without_secrets

DAY = "2026-11-20"

WriteJob = Callable[..., Path]
Cli = Any


def test_secrets_are_blotted_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    configure_logs()
    logging.getLogger("docmill.data.storage").warning("sent %s to https://me:hunter2@host/x", "wJalrXUtnFEMI")
    assert "sent *** to https://me:***@host/x" in capsys.readouterr().err


def test_a_short_secret_does_not_blot_out_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert without_secrets("a test") == "a test"


def test_a_run_is_quiet_unless_asked(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    assert "INFO" not in cli("run", path, "--partition", DAY).stderr
    assert f"job=tickets partition=dt={DAY}" in cli("run", path, "--partition", DAY, "-v").stderr


def test_a_logged_error_shows_its_place_and_not_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(2)
    text = "Kennwort-" + "4711"  # never whole in a line of source, which a place shows
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            raise ValueError(text) from cause
    except ValueError as error:
        logging.getLogger("docmill.ops.feed").debug("where", exc_info=error)
    shown = capsys.readouterr().err
    assert "DEBUG docmill.ops.feed where" in shown
    assert "builtins.KeyError, raised at" in shown
    assert "builtins.ValueError, raised at" in shown
    assert "raise ValueError(text) from cause" in shown
    assert text not in shown


def test_libraries_say_nothing_below_info(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(2)
    library = logging.getLogger("s3fs")
    library.debug("CALL: put_object - {'Body': b'Kennwort-4711'}")
    library.info("connected")
    shown = capsys.readouterr().err
    assert "INFO s3fs connected" in shown
    assert "Kennwort-4711" not in shown


@pytest.mark.parametrize(("verbose", "shown"), [(0, 1), (1, 6)])
def test_retries_of_the_storage_layer_are_one_quiet_line(
    verbose: int, shown: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_STORAGE_RETRY_SECONDS", "60")
    configure_logs(verbose)

    def answers_the_fourth_time() -> Callable[[], str]:
        calls = count()

        def call() -> str:
            if next(calls) < 3:
                raise StorageUnreachable("s3://bucket/x", "no answer", reason="SlowDown")
            return "content"

        return call

    for _ in range(2):
        assert with_retries("s3://bucket/x", answers_the_fourth_time()) == "content"
    lines = [line for line in capsys.readouterr().err.splitlines() if "storage retry" in line]
    assert len(lines) == shown
    assert "uri=s3://bucket/x" in lines[0]
    assert "reason=SlowDown" in lines[0]


def test_no_log_line_holds_a_documents_text(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source={"uri": "own", "partition_key": None})
    (path.parent / "own").mkdir()
    texts = ["Kennwort-4711 " * 3, "Kennwort-4711 " * 100_000, None]
    pl.DataFrame({"doc_id": ["1", "2", "2"], "text": texts}).write_parquet(path.parent / "own" / "a.parquet")
    result = cli("run", path, "-vv")
    assert result.exit_code == 0
    assert "INFO docmill.ops.partition_job" in result.stderr
    assert "Kennwort-4711" not in result.output
