"""How many requests an engine is given at a time: enough that it never wants for one, and few more than that.

It computes as many together as its KV cache and `max_num_seqs` allow, and says once a second how many that is. Behind
them stand those that it may finish before others can reach it. More would only stand in the way of what comes later
and is more urgent, the further rounds of documents that are nearly done, and could not be taken over by other workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from docmill.engine.types import Engine

RESERVE_SECONDS = 2.0  # of its answers: an engine is heard of once a second
LOOK_SECONDS = 0.25
FADING = 0.8  # a look: the quickest answers of late count, since a mix of tasks is uneven
MOST_SHARE = 8  # times `max_num_seqs`


class Admission:
    """Of one engine. `fixed`: so many, whatever it does. Used by the thread that feeds it."""

    def __init__(self, engine: Engine, fixed: int | None, *, clock: Callable[[], float] = time.monotonic):
        self._engine, self._fixed, self._clock = engine, fixed, clock
        self._looked, self._num_answered, self._answers_per_second = clock(), 0, 0.0
        self.max_in_flight = fixed or 2 * engine.info.max_num_seqs

    def answered(self, number: int) -> None:
        """The engine has answered so many more."""
        self._num_answered += number
        seconds = self._clock() - self._looked
        if self._fixed or seconds < LOOK_SECONDS:
            return
        self._answers_per_second = max(self._num_answered / seconds, FADING * self._answers_per_second)
        self._looked, self._num_answered = self._clock(), 0
        most = self._engine.info.max_num_seqs
        # None is running where it has just answered all: then it had room for as many as it takes.
        together = self._engine.load.num_running or most
        reserve = max(most, round(RESERVE_SECONDS * self._answers_per_second))
        self.max_in_flight = min(together + reserve, MOST_SHARE * most)
