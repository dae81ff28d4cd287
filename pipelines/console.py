"""The two ways out of a command: results on stdout, everything else on stderr; and how errors are told."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from docmill.pipelines.exit_codes import ExitCode, error_message, error_object, exit_code_of
from docmill.pipelines.logs import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 140  # a pipe has no width; rich would squeeze every table into 80 columns
DEBUG_VARIABLE = "DOCMILL_DEBUG"


def stdout_console() -> Console:
    """For results."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """For progress, hints and errors."""
    return _console(stderr=True)


def print_json(value: Any, *, indent: int | None = 1) -> None:
    """One JSON document on stdout. Ends the command, as done, where nobody reads it."""
    try:
        print(json.dumps(value, indent=indent, ensure_ascii=False, default=str), flush=True)
    except BrokenPipeError:  # caught here alone: one that a run raises is an error
        from docmill.pipelines.pipe_console import write_nowhere

        write_nowhere(sys.stdout)
        raise typer.Exit(ExitCode.DONE) from None


@contextmanager
def errors_reported(*, as_json: bool = False, debug: bool = False, of_run: bool = False) -> Iterator[None]:
    """End the command with the exit code of whatever is raised inside, told in a short message instead of a trace.

    A SIGTERM counts as Ctrl-C: files in the making are thrown away and the engine is closed. `of_run`: the command
    runs a partition, and its errors tell how to go on.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        from rich.text import Text

        console = stderr_console()
        if debug or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            console.print(Text(without_secrets(traceback.format_exc())), soft_wrap=True)
        if as_json:
            with suppress(typer.Exit):  # nobody reads it: the exit code still tells of the error
                print_json({"error": error_object(error, of_run=of_run)})
        console.print(Text(error_message(error, of_run=of_run), style="bold red"), soft_wrap=True)
        raise typer.Exit(exit_code_of(error)) from error


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what libraries print on stdout, also from C, to stderr: `--json` is read by programs."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    python_stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = python_stdout
        os.dup2(kept, 1)
        os.close(kept)


def _console(*, stderr: bool) -> Console:
    from docmill.pipelines.pipe_console import PipeConsole

    console = PipeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console
