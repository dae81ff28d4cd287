"""The README as a user follows it: its commands, a bash to type them into, and which of them the suite executes.

A test says `told("docmill show reviews.yaml")` and gets the command, which must stand in the README just so, to hand it
to a shell; `told_block("sql")` gives a block of code. `handed_over` finds all that tests get so, by reading them, and
tests/end_to_end/test_readme.py holds that against what the README has.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:make|docmill|dg)(?:\s[^`]+)?)`")


def readme_commands() -> list[str]:
    """Lines of bash blocks without their comments, and commands in running text; each once, in their order."""
    found = [
        command
        for language, block in _BLOCK.findall(README)
        if language == "bash"
        for line in block.splitlines()
        if (command := re.sub(r"(^|\s+)#.*", "", line))
    ]
    text = _BLOCK.sub("", README)
    return list(dict.fromkeys([*found, *(" ".join(command.split()) for command in _INLINE.findall(text))]))


def readme_blocks() -> list[tuple[str, str]]:
    """Language and text of what is no bash."""
    return [(language, block) for language, block in _BLOCK.findall(README) if language != "bash"]


def told(command: str, values: Mapping[str, str] | None = None) -> str:
    """A command of the README, with values where it leaves something open. Fails where there is no such command."""
    assert command in readme_commands(), f"the README no longer tells `{command}`"
    for left_open, value in (values or {}).items():
        assert left_open in command
        command = command.replace(left_open, value)
    return command


def told_block(language: str, words: str = "") -> str:
    """The README's one block in this language with these words."""
    found = [block for each, block in readme_blocks() if each == language and words in block]
    assert len(found) == 1, f"the README has {len(found)} blocks of {language} with {words!r}"
    return found[0]


def handed_over(function: str) -> Iterator[list[str]]:
    """The texts that tests call `told` or `told_block` with, a list a call."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        for call in calls:
            if isinstance(call.func, ast.Name) and call.func.id == function:
                texts = [each.value for each in call.args if isinstance(each, ast.Constant)]
                if texts:
                    yield texts


class Shell:
    """A user's bash in a folder: docmill is on its path, and what it exports stays.

    `make` takes the environment as it is, also where the lock has a later date: a set-up is not for tests.
    """

    def __init__(self, folder: Path, programs: Path, **variables: str):
        """`programs`: a new folder, for that `make`."""
        self.folder = folder
        wrapper = programs / "make"
        programs.mkdir(parents=True)
        wrapper.write_text(
            f'#!/bin/sh\nexec {shutil.which("make")} --no-print-directory --old-file=.venv/.docmill-ready "$@"\n'
        )
        wrapper.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.env = kept | {"PATH": path} | variables

    def run(self, command: str, *, exit_code: int = 0, timeout: float = 120) -> str:
        """What it printed, messages included; it must end with this code."""
        with self.started(command) as process:
            output, _ = process.communicate(timeout=timeout)
        assert process.returncode == exit_code, (
            f"{command} ended with {process.returncode}:\n{output[-3000:]}"
        )
        return output

    def export(self, command: str) -> None:
        """Of what runs afterwards, the environment."""
        printed = self.run(f"{command}; env --null")
        self.env = dict(pair.split("=", 1) for pair in printed.rstrip("\0").split("\0"))

    @contextmanager
    def started(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """Running; ended with all that it has started, when the block is left."""
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
