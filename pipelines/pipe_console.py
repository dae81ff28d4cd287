"""rich's console at the writing end of a pipe: what a command does when nobody reads any more."""

from __future__ import annotations

import os
from typing import IO

import typer
from rich.console import Console

from docmill.pipelines.exit_codes import ExitCode


class PipeConsole(Console):
    """On stdout, a reader that has what it wanted (`| head`) ends the command, as done; on stderr, the work goes on.

    rich itself would end the command with 1, and a night's run with it when the `tee` of its progress dies.
    """

    def on_broken_pipe(self) -> None:
        """Called by rich in place of raising `BrokenPipeError`."""
        del self._buffer[:]  # or every later line would begin with what could not be written
        write_nowhere(self.file)
        if not self.stderr:
            raise typer.Exit(ExitCode.DONE)


def write_nowhere(stream: IO[str]) -> None:
    """Send what is written from now on, and what waits in the stream's buffer, to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
