"""The choice of a precision for each group: as good as trying all of them."""

from __future__ import annotations

import itertools
import random

import pytest

from docmill.engine.compression import precision
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.formats import FORMATS, Format
from docmill.engine.compression.precision import Point, choose, curve, foretell
from docmill.engine.compression.sensitivity import GroupSensitivity, Sensitivity


def random_sensitivity(seed: int, num_groups: int = 5) -> Sensitivity:
    """Groups of different size and sensitivity; some cannot have 4 bits, some lose less in fewer."""
    draw = random.Random(seed)
    groups = {}
    for number in range(num_groups):
        forms: tuple[Format, ...] = FORMATS if draw.random() < 0.8 else ("int8", "fp8")
        groups[f"layer.{number}"] = GroupSensitivity(
            layers=(f"layer.{number}",),
            num_weights=draw.choice([64, 100, 100, 256]) * 16,
            bits={form: {"int8": 8.125, "fp8": 8.125, "w4a16": 4.25}[form] for form in forms},
            divergence={form: draw.lognormvariate(0, 2) * 1e-4 for form in forms},
        )
    return Sensitivity(groups=groups, num_sequences=1, num_tokens=1)


def all_choices(sensitivity: Sensitivity) -> list[Point]:
    options = [[None, *group.divergence] for group in sensitivity.groups.values()]
    return [
        foretell(sensitivity, dict(zip(sensitivity.groups, chosen, strict=True)))
        for chosen in itertools.product(*options)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_a_choice_is_the_best_of_all(seed: int) -> None:
    sensitivity = random_sensitivity(seed)
    every = all_choices(sensitivity)
    draw = random.Random(seed)
    for max_divergence in [0.0, *(draw.lognormvariate(0, 2) * 2e-4 for _ in range(4))]:
        chosen = foretell(sensitivity, choose(sensitivity, FORMATS, max_divergence=max_divergence))
        assert chosen.divergence <= max_divergence
        assert chosen.bits == pytest.approx(min(p.bits for p in every if p.divergence <= max_divergence))
    for max_bits in (6.0, 8.125, 11.0, 16.0):
        able = [point.divergence for point in every if point.bits <= max_bits]
        if not able:
            with pytest.raises(UnfitError, match=rf"no choice .* takes {max_bits} bits .* takes \d"):
                choose(sensitivity, FORMATS, max_bits=max_bits)
            continue
        chosen = foretell(sensitivity, choose(sensitivity, FORMATS, max_bits=max_bits))
        assert chosen.bits <= max_bits
        assert chosen.divergence == pytest.approx(min(able))


def test_the_curve_is_what_no_choice_beats() -> None:
    sensitivity = random_sensitivity(3)
    points = curve(sensitivity, FORMATS, max_points=10_000)
    every = all_choices(sensitivity)
    for point in points:
        assert foretell(sensitivity, point.precisions).divergence == pytest.approx(point.divergence)
        assert not any(
            other.bits <= point.bits and other.divergence < point.divergence * (1 - 1e-9) for other in every
        )
    assert [p.bits for p in points] == sorted({p.bits for p in points})
    assert points[-1].precisions == dict.fromkeys(sensitivity.groups)
    assert len(curve(sensitivity, FORMATS, max_points=5)) == 5


def test_a_front_that_grows_too_long_is_thinned_and_stays_near_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sensitivity = random_sensitivity(4, num_groups=40)
    exact = [choose(sensitivity, FORMATS, max_bits=bits) for bits in (6.5, 9.0)]
    monkeypatch.setattr(precision, "MAX_FRONT", 300)
    thinned = [choose(sensitivity, FORMATS, max_bits=bits) for bits in (6.5, 9.0)]
    for best, other in zip(exact, thinned, strict=True):
        assert foretell(sensitivity, other).divergence <= 1.1 * foretell(sensitivity, best).divergence


def test_only_the_formats_that_are_asked_for_are_chosen_and_one_budget_is_needed() -> None:
    sensitivity = random_sensitivity(5)
    assert set(choose(sensitivity, ["int8"], max_divergence=1.0).values()) == {"int8"}
    for budgets in ({}, {"max_bits": 8.0, "max_divergence": 0.1}):
        with pytest.raises(ValueError, match="expected one of"):
            choose(sensitivity, FORMATS, **budgets)
    with pytest.raises(ValueError, match="expected 0 or more"):
        choose(sensitivity, FORMATS, max_divergence=-1.0)


def test_a_sensitivity_survives_being_written() -> None:
    sensitivity = random_sensitivity(6)
    assert Sensitivity.model_validate_json(sensitivity.model_dump_json()) == sensitivity
