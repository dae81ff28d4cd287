"""`docmill` with a fake engine that takes its time, so that a test can look and send signals in the middle.

Run it as the command line (`python slow_docmill.py run JOB ...`), or import it before anything opens an engine.
"""

from __future__ import annotations

import time

from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion
from docmill.ops import worker

ANSWERS_AT_ONCE, PAUSE_SECONDS = 4, 0.02  # some 150 requests a second


class SlowEngine(FakeEngine):
    """Hands out a few completions at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Completion] = []

    @property
    def num_in_flight(self) -> int:
        return super().num_in_flight + len(self._held)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        time.sleep(PAUSE_SECONDS)
        self._held += super().completions(0.0)
        some, self._held = self._held[:ANSWERS_AT_ONCE], self._held[ANSWERS_AT_ONCE:]
        return some


worker.start_engine = lambda *_: SlowEngine()

if __name__ == "__main__":
    from docmill.pipelines.cli import app

    app()
