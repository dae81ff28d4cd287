"""Programs that run at the same time, by turns: what a shared machine does in between, it does to all of them.

A machine that others use as well varies from one minute to the next by ten times what a comparison looks for. So each
program has the whole machine for a quarter of a second while the others are stopped (SIGSTOP), and only its own turns
count. A program prints `loaded` and waits for a line before it does what is timed; the last line that it prints is a
JSON object with its figures.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil

TURN_SECONDS = 0.25
LOADED = "loaded\n"


def timed(work: Callable[[], Mapping[str, Any]]) -> None:
    """In the program itself, when everything is loaded: does the work in its turns, and prints its figures."""
    print(LOADED, end="", flush=True)
    sys.stdin.readline()
    print(json.dumps(work()), flush=True)


def run_alone(command: Sequence[str]) -> dict[str, Any]:
    """One program's figures and `seconds`, never stopped."""
    program = _Program(command)
    try:
        program.load()
        program.take_turn(None)
    finally:
        program.kill()
    return program.figures | {"seconds": program.seconds}


def run_by_turns(commands: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Each program's figures, with the `seconds` of its turns. The first of the commands begins."""
    programs = {name: _Program(command) for name, command in commands.items()}
    try:
        for program in programs.values():
            program.load()
        order = [*programs.values()]
        while any(not program.figures for program in order):
            for program in order:
                if not program.figures:
                    program.take_turn()
            order.reverse()  # ABBA, turn by turn
    finally:
        for program in programs.values():
            program.kill()
    return {name: program.figures | {"seconds": program.seconds} for name, program in programs.items()}


class _Program:
    """A process and what it has started, which go on only in their turn."""

    def __init__(self, command: Sequence[str]):
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds = 0.0
        self.figures: dict[str, Any] = {}
        self._all: list[psutil.Process] = []

    def load(self) -> None:
        """Until it has loaded; then it is stopped at its start."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        assert self.process.stdout.readline() == LOADED, "it did not load; its error is above"
        parent = psutil.Process(self.process.pid)
        self._all = [parent, *parent.children(recursive=True)]
        self._signal(signal.SIGSTOP)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def take_turn(self, seconds: float | None = TURN_SECONDS) -> None:
        """One turn, or what is left of the run; None: all of it."""
        assert self.process.stdout is not None
        started = time.perf_counter()
        self._signal(signal.SIGCONT)
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        self._signal(signal.SIGSTOP)
        self.seconds += time.perf_counter() - started
        if ready:
            self._signal(signal.SIGCONT)  # it may have been stopped in the middle of the line
            self.figures = json.loads(self.process.stdout.readline())
            assert self.process.wait(60) == 0

    def kill(self) -> None:
        """Whatever is left; an engine dies with the process that started it."""
        self.process.kill()
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._all:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
