"""Costs of an engine's work, from sums over its steps."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement

import pytest

from docmill.engine.steps import FEATURES, NO_STEPS, StepSums
from docmill.ops.step_costs import FEWEST_STEPS, StepCosts, fit

TRUE = StepCosts(one=0.004, tokens=25e-6, sequences=30e-6, context=0.5e-6, pairs=0.02e-6)


def sums_of(rows: list[tuple[float, ...]]) -> StepSums:
    pairs = list(combinations_with_replacement(range(6), 2))
    return StepSums(tuple(float(sum(row[a] * row[b] for row in rows)) for a, b in pairs))


def steps(number: int, *, noise: float = 0.0, costs: StepCosts = TRUE) -> list[tuple[float, ...]]:
    """A mix of steps as an engine makes them: some prompts, many answers."""
    chosen = random.Random(5)
    rows = []
    for _ in range(number):
        prompt, answers = chosen.choice([0, 0, 0, chosen.randrange(4000)]), chosen.randrange(1, 128)
        work = (1.0, prompt + answers, answers + (prompt > 0), answers * chosen.randrange(50, 900),
                prompt * chosen.randrange(20, 800))  # fmt: skip
        seconds = costs.seconds(dict(zip(FEATURES, work, strict=True)))
        rows.append((*work, seconds * (1 + chosen.gauss(0, noise))))
    return rows


def test_costs_are_found_from_what_steps_took() -> None:
    found = fit(sums_of(steps(400)))
    assert found is not None
    for name in FEATURES:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-3), name


def test_noise_does_not_bend_what_another_mix_will_take() -> None:
    found = fit(sums_of(steps(400, noise=0.3)))
    assert found is not None
    for work in (
        {"one": 100, "tokens": 300_000, "sequences": 500, "pairs": 6e7},  # prompts alone
        {"one": 900, "tokens": 90_000, "sequences": 90_000, "context": 4e7},  # answers alone
    ):
        assert found.seconds(work) == pytest.approx(TRUE.seconds(work), rel=0.15)


def test_all_steps_together_come_out_exactly() -> None:
    rows = steps(200, noise=0.5)
    found = fit(sums_of(rows))
    assert found is not None
    work = {name: sum(row[place] for row in rows) for place, name in enumerate(FEATURES)}
    assert found.seconds(work) == pytest.approx(sum(row[-1] for row in rows))
    assert min(getattr(found, name) for name in FEATURES) >= 0


def test_what_always_comes_together_is_priced_together() -> None:
    """Answers to labels: every step a few prompts, no later tokens, and context never read."""
    rows = [(1.0, 300.0 * n, float(n), 0.0, 45_000.0 * n, 0.005 + 0.01 * n) for n in range(1, 200)]
    found = fit(sums_of(rows))
    assert found is not None
    work = {"one": 10.0, "tokens": 3000.0, "sequences": 10.0, "pairs": 450_000.0}
    assert found.seconds(work) == pytest.approx(10 * 0.005 + 0.1, rel=1e-3)
    assert found.context == 0


def test_too_few_steps_tell_nothing() -> None:
    assert fit(NO_STEPS) is None
    assert fit(sums_of(steps(FEWEST_STEPS - 1))) is None
    assert fit(sums_of(steps(FEWEST_STEPS))) is not None
