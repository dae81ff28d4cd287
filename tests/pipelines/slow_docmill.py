"""`docmill` with a fake engine that takes its time, so that a test can send a signal in the middle.

Run it as the command line (`python slow_docmill.py run JOB ...`), or import it before anything opens an engine. It
answers some hundred requests a second. With DOCMILL_TEST_DIES_AFTER=n the engine of the first process that gets so far
dies after n answers, once: the file of DOCMILL_TEST_DIED says so to the next.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from docmill.engine.errors import EngineDied
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion
from docmill.ops import replay, worker

ANSWERS_AT_ONCE, PAUSE_SECONDS = 4, 0.02


class SlowEngine(FakeEngine):
    """Hands out a few completions at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Completion] = []
        self._dies_after = int(os.environ.get("DOCMILL_TEST_DIES_AFTER", "0"))
        self._num_answered = 0

    @property
    def num_in_flight(self) -> int:
        return super().num_in_flight + len(self._held)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        time.sleep(PAUSE_SECONDS)
        self._held += super().completions(0.0)
        some, self._held = self._held[:ANSWERS_AT_ONCE], self._held[ANSWERS_AT_ONCE:]
        self._num_answered += len(some)
        if self._dies_after and self._num_answered >= self._dies_after:
            died = Path(os.environ["DOCMILL_TEST_DIED"])
            if not died.exists():
                died.touch()
                raise EngineDied("killed by the test", self.num_in_flight)
        return some


for module in (worker, replay):
    module.open_engine = lambda *_: SlowEngine()  # type: ignore[attr-defined]

if __name__ == "__main__":
    from docmill.pipelines.cli import app

    app()
