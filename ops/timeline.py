"""What an engine did over a run: how full it was, how fast, and what it waited for while it had room.

An engine with as many requests as it computes at once is as busy as it can be. With fewer, its empty places are idle,
for one of three causes, and are counted in seconds of a whole engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from docmill.engine.steps import COLUMNS
from docmill.engine.types import Engine

IdleCause = Literal["starved", "draining", "writing"]

MAX_POINTS = 240
POINT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Point:
    seconds: float  # since the timeline began
    num_running: int
    num_waiting: int
    kv_cache_used: float
    num_prompt_tokens: int  # computed since the timeline began
    num_output_tokens: int
    steps: tuple[float, ...]  # sums of `engine.steps.COLUMNS` since the timeline began


class Timeline:
    """Looked at again and again by the thread that feeds the engine. At most `MAX_POINTS` are kept, evenly."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic):
        self.idle: dict[IdleCause, float] = {"starved": 0.0, "draining": 0.0, "writing": 0.0}
        self._engine, self._clock = engine, clock
        self._began = self._looked = clock()
        self._before = engine.load  # an engine that is used again has computed something
        self._points: list[_Point] = []
        self._point_seconds = POINT_SECONDS
        self._cause: IdleCause = "starved"
        self._room = 1.0  # share of the engine's places that are empty

    def look(self, cause: IdleCause) -> None:
        """Count the time since the last look; `cause` is why the engine would have room from now on."""
        now, engine = self._clock(), self._engine
        self.idle[self._cause] += (now - self._looked) * self._room
        self._looked, self._cause = now, cause
        self._room = max(0.0, 1 - engine.num_in_flight / engine.info.max_num_seqs)
        seconds = now - self._began
        if self._points and seconds - self._points[-1].seconds < self._point_seconds:
            return
        load = engine.load
        steps = load.steps.plus(self._before.steps, times=-1)
        self._points.append(
            _Point(
                round(seconds, 2),
                load.num_running,
                load.num_waiting,
                round(load.kv_cache_used, 4),
                load.num_prompt_tokens - self._before.num_prompt_tokens,
                load.num_output_tokens - self._before.num_output_tokens,
                tuple(round(steps.of(column), 3) for column in COLUMNS),
            )
        )
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._point_seconds *= 2

    @property
    def seconds(self) -> float:
        """Since the timeline began, as of the last look."""
        return self._looked - self._began

    def points(self) -> list[dict[str, Any]]:
        """For the report: `report.TimelinePoint` without the worker."""
        return [asdict(point) for point in self._points]
