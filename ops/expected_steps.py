"""How an engine would work through requests that are expected: its steps, and what they hold (`engine.steps`).

What each request needs follows from its lengths alone. How many steps all of them take depends on how many run
together, so vLLM's scheduler is played: sequences, tokens a step and the KV cache's room each limit a step; requests
come in order; a prompt that is longer than what is left of a step goes on in the next one.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class ExpectedRequest(NamedTuple):
    """One request. The answer's tokens are an expectation, so they may be a fraction."""

    task: str
    num_computed: int  # tokens of the prompt
    num_cached: int  # that it need not compute
    num_output: float

    def answered_longer(self, factor: float) -> ExpectedRequest:
        """The same with an answer so many times as long."""
        return self._replace(num_output=max(1.0, self.num_output * factor))


class EngineLimits(NamedTuple):
    """What an engine computes at once."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: int


def work_by_task(requests: Iterable[ExpectedRequest]) -> dict[str, dict[str, float]]:
    """By task the sums of `engine.steps.FEATURES`, all but the steps themselves."""
    work: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for request in requests:
        task = work[request.task]
        # The prompt's step gives the first token of the answer; the last token is never computed.
        num_later = max(0.0, request.num_output - 1)
        num_prompt = request.num_cached + request.num_computed
        task["tokens"] += request.num_computed + num_later
        task["sequences"] += 1 + num_later
        task["context"] += num_later * (num_prompt + max(0.0, num_later - 1) / 2)
        task["pairs"] += request.num_computed * (request.num_cached + request.num_computed / 2)
    return work


def num_steps(requests: Sequence[ExpectedRequest], limits: EngineLimits) -> int:
    """Steps that an engine takes for all of them."""
    step = num_taken = held = 0
    running: list[tuple[int, int]] = []  # last step of each sequence, and what it holds of the KV cache
    rest = 0  # tokens of a prompt that goes on, the last one taken
    while num_taken < len(requests) or running or rest:
        step += 1
        budget = limits.max_num_batched_tokens - len(running)
        waits_for_end = True
        while budget > 0:
            if not rest:
                if num_taken == len(requests) or len(running) == limits.max_num_seqs:
                    break
                needed = requests[num_taken].num_computed + round(requests[num_taken].num_output)
                if running and held + needed > limits.kv_cache_tokens:
                    break
                rest, held = requests[num_taken].num_computed, held + needed
                num_taken += 1
            waits_for_end = False
            computed = min(rest, budget)
            rest, budget = rest - computed, budget - computed
            if not rest:
                request = requests[num_taken - 1]
                held_by_it = request.num_computed + round(request.num_output)
                heapq.heappush(running, (step + max(1, round(request.num_output)) - 1, held_by_it))
        if waits_for_end and running:
            step = max(step, running[0][0])
        while running and running[0][0] <= step:
            held -= heapq.heappop(running)[1]
    return step
