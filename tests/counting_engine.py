"""The fake engine, which notes what it is asked and can die on the way."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from docmill.engine.errors import EngineDied
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Completion, Request


class CountingEngine(FakeEngine):
    """Notes what it is asked; dies after `dies_after` completions were taken, `pause` seconds after each."""

    def __init__(self, *, dies_after: int | None = None, pause: float = 0.0, **options: Any):
        super().__init__(**options)
        self.requests: list[Request] = []
        self.keys: Counter[str] = Counter()
        self.in_flight_at_death = 0
        self._dies_after, self._pause = dies_after, pause
        self._given = 0
        self._held: list[Completion] = []

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        self.keys[request.key("fake")] += 1
        super().submit(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        if self._dies_after is not None and self._given >= self._dies_after:
            self.in_flight_at_death = len(self.requests) - self._given
            raise EngineDied("killed", self.in_flight_at_death)
        time.sleep(self._pause)
        self._held += super().completions(0.0 if self._held else timeout_seconds)
        given, self._held = self._held[:5], self._held[5:]
        self._given += len(given)
        return given
