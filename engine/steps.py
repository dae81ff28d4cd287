"""What an engine's steps were like: sums from which least squares tells what each kind of work costs.

A step computes tokens for some sequences. Those that are being answered get one token each and read their whole
context from the KV cache; a prompt gets many at once, each of which attends to those before it. So a step is five
numbers and the seconds it took, and of these only sums and sums of products are kept: they add up over steps, engines
and runs. `ops.step_costs` makes prices of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

# Of one step. `one`: what every step costs. `pairs`: tokens of prompts, each times the tokens that it attends to.
FEATURES = ("one", "tokens", "sequences", "context", "pairs")
COLUMNS = (*FEATURES, "seconds")
_PRODUCTS = tuple(combinations_with_replacement(range(len(COLUMNS)), 2))
_PLACES = {product: place for place, product in enumerate(_PRODUCTS)}

# The first steps of a process are several times slower than any after them (libraries choose and build their
# kernels): 2 s instead of 0.15 on a CPU.
NUM_WARM_UP_STEPS = 3


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums over steps of the products of each two of `COLUMNS`; `one` times another is that one's own sum."""

    products: tuple[float, ...] = (0.0,) * len(_PRODUCTS)

    def of(self, column: str, other: str = "one") -> float:
        """The sum of one column, or of its products with another."""
        first, second = sorted((COLUMNS.index(column), COLUMNS.index(other)))
        return self.products[_PLACES[first, second]]

    def plus(self, other: StepSums, *, times: float = 1.0) -> StepSums:
        """Both together; the other's counted so many times."""
        return StepSums(tuple(a + times * b for a, b in zip(self.products, other.products, strict=True)))


NO_STEPS = StepSums()


class StepMeter:
    """Adds up what vLLM's scheduler puts into each step and how long it takes. Belongs to the engine's thread."""

    def __init__(self, engine_core: Any):
        self._scheduler, self._schedule = engine_core.scheduler, engine_core.scheduler.schedule
        self._products = [0.0] * len(_PRODUCTS)
        self._num_seen = 0
        # With a queue of batches a step is scheduled while the one before it is computed, and it is that one which
        # the time until the next belongs to.
        self._is_one_ahead = getattr(engine_core, "batch_queue", None) is not None
        self._scheduled: Sequence[float] | None = None
        self._computed: Sequence[float] | None = None
        engine_core.scheduler.schedule = self._note  # it has no other way to tell what a step holds

    @property
    def sums(self) -> StepSums:
        """Up to now, without the first steps."""
        return StepSums(tuple(self._products))

    def ended(self, seconds: float) -> None:
        """A step has ended, which took so long."""
        step, self._computed, self._scheduled = self._computed, self._scheduled, None
        if not self._is_one_ahead:
            step, self._computed = self._computed, None
        if step is None:
            return
        self._num_seen += 1
        if self._num_seen > NUM_WARM_UP_STEPS:
            row = (*step, seconds)
            self._products = [
                so_far + row[a] * row[b] for so_far, (a, b) in zip(self._products, _PRODUCTS, strict=True)
            ]

    def _note(self, *args: Any, **kwargs: Any) -> Any:
        scheduled = self._schedule(*args, **kwargs)
        if scheduled.total_num_scheduled_tokens:
            self._scheduled = features(scheduled)
        return scheduled


def features(scheduled: Any) -> tuple[float, ...]:
    """`FEATURES` of one step, from vLLM's SchedulerOutput."""
    known = scheduled.scheduled_cached_reqs
    numbers = scheduled.num_scheduled_tokens
    context, pairs, num_new_tokens = sum(known.num_computed_tokens), 0.0, 0
    for request in scheduled.scheduled_new_reqs:
        num_tokens = numbers[request.req_id]
        num_new_tokens += num_tokens
        pairs += num_tokens * (request.num_computed_tokens + num_tokens / 2)
    if scheduled.total_num_scheduled_tokens - num_new_tokens != len(known.req_ids):
        # Some prompt is longer than a step, or its answer was interrupted.
        for request_id, num_computed in zip(known.req_ids, known.num_computed_tokens, strict=True):
            num_tokens = numbers[request_id]
            if num_tokens > 1:
                context -= num_computed
                pairs += num_tokens * (num_computed + num_tokens / 2)
    return (1.0, scheduled.total_num_scheduled_tokens, len(numbers), context, pairs)
