"""What the tests of `pipelines/` share: job files with the fake engine, the command line, and `docmill ui`."""

from __future__ import annotations

import copy
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docmill_ui import DocmillUi
from readme import Shell
from servers.hook import Hook
from typer.testing import CliRunner

from docmill.pipelines.cli import app

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"
DOCUMENTS = 12

WriteJob = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No job file, output or Dagster of the developer's is seen; logging is as it was afterwards."""
    monkeypatch.setenv("DOCMILL_HOME", str(tmp_path / "home"))
    ours = logging.getLogger("docmill")
    handlers, propagate, level = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate = handlers, propagate
    ours.setLevel(level)
    logging.captureWarnings(False)
    warned = logging.getLogger("py.warnings")
    warned.handlers, warned.propagate = [], True


JOB: dict[str, Any] = {
    "name": "tickets",
    "description": "Messages of customers",
    "source": {
        "uri": "documents",
        "carry": ["language"],
        "generate": {
            "kind": "demo",
            "days": [OTHER_DAY, DAY],
            "documents_per_day": DOCUMENTS,
            "shards_per_day": 2,
        },
    },
    "output": {"uri": "answers"},
    "engine": {"kind": "fake"},
    "tasks": {
        "translations": {"kind": "translate", "description": "In English"},
        "topics": {"kind": "classify", "labels": ["billing", "delivery"]},
    },
    "prices": {"usd_per_hour": {"cpu": 1.0}},
}


@pytest.fixture
def write_job(tmp_path: Path) -> WriteJob:
    """Writes a job file with the fake engine below `tmp_path/jobs` and returns its path.

    `write_job(source__uri="x", engine=None)` changes a value inside `source` and takes `engine` out; `text` replaces
    the whole file.
    """

    def write(file: str = "tickets", *, text: str | None = None, **changes: Any) -> Path:
        values = copy.deepcopy(JOB)
        for name, value in changes.items():
            *outer, key = name.split("__")
            inner = values
            for part in outer:
                inner = inner.setdefault(part, {})
            inner[key] = value
            if value is None:
                del inner[key]
        path = tmp_path / "jobs" / f"{file}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if text is not None else yaml.safe_dump(values, sort_keys=False))
        return path

    return write


class Cli:
    """`docmill` in this process."""

    def __call__(self, *arguments: object) -> Any:
        """The result of a command: exit_code, stdout, stderr."""
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def json(self, *arguments: object, exit_code: int = 0) -> Any:
        """What a command with --json prints; all of stdout must be JSON."""
        result = self(*arguments, "--json")
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def cli() -> Cli:
    """Runs `docmill` in this process: `cli("run", path, "--partition", DAY)`."""
    return Cli()


@pytest.fixture
def finished_job(write_job: WriteJob, cli: Cli) -> Path:
    """A job file whose last day has been run."""
    path = write_job()
    result = cli("run", path, "--partition", DAY)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """What `on_failure: {url: "${TICKETS_HOOK}"}` of a job posts to."""
    with Hook() as server:
        monkeypatch.setenv("TICKETS_HOOK", server.url)
        yield server


@pytest.fixture
def start_ui(tmp_path: Path) -> Iterator[Callable[..., DocmillUi]]:
    """Starts `docmill ui`, or by another command, and waits until it says where it answers."""
    started: list[DocmillUi] = []

    def start(command: str = "docmill ui", shell: Shell | None = None) -> DocmillUi:
        number = len(started)
        shell = shell or Shell(tmp_path, tmp_path / f"programs-{number}")
        started.append(DocmillUi(shell, command, tmp_path / f"ui-{number}.txt"))
        return started[-1]

    yield start
    for ui in started:
        if ui.process.poll() is None:
            ui.send(signal.SIGTERM)
