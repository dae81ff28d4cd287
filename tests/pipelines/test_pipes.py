"""Pipes whose reader has gone: `docmill show | head`, and a `tee` of the progress that died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from docmill.pipelines.console import errors_reported, print_json, stderr_console, stdout_console
from docmill.pipelines.exit_codes import ExitCode, WrongUsage

DAY = "2026-11-20"
DOCMILL = str(Path(sys.executable).with_name("docmill"))

WriteJob = Callable[..., Path]


@contextmanager
def pipe_without_reader() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@pytest.fixture
def abandon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`abandon("stdout")` takes the reader of `sys.stdout` away."""
    with ExitStack() as stack:

        def take_away(name: str) -> None:
            writer = stack.enter_context(pipe_without_reader())
            monkeypatch.setattr(sys, name, stack.enter_context(open(writer, "w", closefd=False)))

        yield take_away


@pytest.mark.parametrize("write", [print_json, lambda value: stdout_console().print(value)])
def test_results_that_nobody_reads_end_the_command_as_done(
    abandon: Callable[[str], None], write: Callable[[Any], None]
) -> None:
    abandon("stdout")
    with pytest.raises(typer.Exit) as ended, errors_reported():
        write("x")
    assert ended.value.exit_code == ExitCode.DONE


def test_work_goes_on_when_nobody_reads_its_progress(abandon: Callable[[str], None]) -> None:
    abandon("stderr")
    console = stderr_console()
    for _ in range(3):
        console.print("running")
    print("a library's line", file=sys.stderr, flush=True)


def test_a_broken_pipe_inside_the_work_is_an_error() -> None:
    with pytest.raises(typer.Exit) as ended, errors_reported():
        raise BrokenPipeError
    assert ended.value.exit_code == ExitCode.FAILED


def test_an_error_that_nobody_reads_keeps_its_exit_code(abandon: Callable[[str], None]) -> None:
    abandon("stdout")
    abandon("stderr")
    with pytest.raises(typer.Exit) as ended, errors_reported(as_json=True, debug=True):
        raise WrongUsage("x")
    assert ended.value.exit_code == ExitCode.USAGE


def test_the_command_itself_ends_so(write_job: WriteJob) -> None:
    path = write_job()
    with pipe_without_reader() as gone:
        run = [DOCMILL, "run", str(path), "--partition", DAY, "--json"]
        ran = subprocess.run(run, stdout=subprocess.PIPE, stderr=gone, check=False)
        show = [DOCMILL, "show", str(path), "--partition", DAY]
        shown = subprocess.run(show, stdout=gone, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, json.loads(ran.stdout)["partition"]) == (0, f"dt={DAY}")
    assert (shown.returncode, shown.stderr) == (0, b"")
