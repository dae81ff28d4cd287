"""What an engine's work costs: seconds by what its steps hold, from the sums that `engine.steps` adds up.

    seconds = one * steps + tokens * tokens + sequences * sequences + context * context + pairs * pairs

A cost that no step has shown apart from the others is 0, and theirs hold its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from docmill.engine.steps import FEATURES, StepSums

FEWEST_STEPS = 15  # fewer tell less than a guess
SMALLEST_SHARE = 1e-9  # of a column's squares that the others do not explain, for it to be told from them


class StepCosts(BaseModel):
    """Seconds by `engine.steps.FEATURES`."""

    model_config = ConfigDict(extra="forbid")

    one: float = 0.0
    tokens: float = 0.0
    sequences: float = 0.0
    context: float = 0.0
    pairs: float = 0.0

    def seconds(self, work: Mapping[str, float]) -> float:
        """Of so many steps (`one`), tokens and so on."""
        return float(sum(getattr(self, name) * work.get(name, 0.0) for name in FEATURES))


def fit(sums: StepSums) -> StepCosts | None:
    """Least squares with no cost below 0; all steps together come out exactly. None where there are too few."""
    if sums.of("one") < FEWEST_STEPS:
        return None
    names = list(FEATURES)
    while True:
        costs = dict(zip(names, _solve(sums, names), strict=True))
        negative = min(costs, key=costs.__getitem__)
        if costs[negative] >= 0:
            break
        names.remove(negative)
    total = sum(cost * sums.of(name) for name, cost in costs.items())
    if total <= 0:
        return None
    scale = sums.of("seconds") / total
    return StepCosts(**{name: cost * scale for name, cost in costs.items()})


def _solve(sums: StepSums, names: list[str]) -> list[float]:
    """The normal equations, with every column made as long as the others: theirs differ by ten powers of ten."""
    import numpy as np

    lengths: Any = np.array([max(sums.of(name, name), 1e-300) ** 0.5 for name in names])
    matrix = np.array([[sums.of(a, b) for b in names] for a in names]) / np.outer(lengths, lengths)
    right = np.array([sums.of(name, "seconds") for name in names]) / lengths
    solution = np.linalg.lstsq(matrix, right, rcond=SMALLEST_SHARE)[0]
    return [float(cost) for cost in solution / lengths]
