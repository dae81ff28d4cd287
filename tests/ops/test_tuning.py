"""The search for the fastest settings, on surfaces that are known: what it finds, and when it leaves all as it is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from docmill.ops.tuning import PAIRS, Axes, Settings, Trial, Tuned, is_faster, tune

AXES: Axes = {
    "max_num_seqs": [16, 32, 64, 128, 256, 512],
    "max_num_batched_tokens": [1024, 2048, 4096, 8192],
    "kv_cache_gib": [1.0, 2.0, 4.0],
}
PRESENT: Settings = {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "kv_cache_gib": 1.0}
TRIAL_SECONDS = 30.0


class Machine:
    """Runs trials on a clock of its own; `speed` is the truth, `noise` the spread of what is measured of it."""

    def __init__(
        self,
        speed: Callable[[Settings], float | None],
        *,
        noise: float = 0.0,
        drift: float = 0.0,
        seed: int = 0,
        **shown: Any,
    ):
        self.now = 0.0
        self.asked: list[Settings] = []
        self._speed, self._noise, self._drift, self._shown = speed, noise, drift, shown
        self._random = random.Random(seed)

    def measure(self, settings: Settings) -> Trial:
        self.asked.append(dict(settings))
        self.now += TRIAL_SECONDS
        speed = self._speed(settings)
        if speed is None:
            return Trial(settings, TRIAL_SECONDS, trouble="out of memory")
        speed *= self._random.gauss(1, self._noise) * (1 - self._drift) ** len(self.asked)
        return Trial(settings, TRIAL_SECONDS, speed=speed, kv_cache_peak=1.0, **self._shown)

    def tune(self, *, seconds: float = 3600, **options: Any) -> Tuned:
        present = self.measure(PRESENT)
        begun = self.now
        found = tune(self.measure, present, AXES, seconds=seconds, clock=lambda: self.now, **options)
        assert self.now - begun <= seconds
        return found


def hill(best: Settings) -> Callable[[Settings], float]:
    """Falls by a quarter with every step away from the best, along each axis."""

    def speed(settings: Settings) -> float:
        away = sum(abs(math.log2(float(settings[name]) / float(best[name]))) for name in best)
        return 100 * 0.75**away

    return speed


@pytest.mark.parametrize(
    "best",
    [
        {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "kv_cache_gib": 4.0},
        {"max_num_seqs": 16, "max_num_batched_tokens": 1024, "kv_cache_gib": 1.0},  # against the first step
        {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "kv_cache_gib": 2.0},
    ],
)
def test_it_finds_the_top_of_a_hill_and_asks_for_few_trials(best: Settings) -> None:
    machine = Machine(hill(best), noise=0.01)
    found = machine.tune()
    assert (found.best.settings, found.verdict, found.complete) == (best, "faster", True)
    truth = hill(best)(best) / hill(best)(PRESENT)
    assert found.speedup == pytest.approx(truth, rel=0.05)
    assert len(found.trials) == len(machine.asked) <= 14 + 2 * PAIRS  # of 72 combinations


def test_settings_that_help_only_together_are_found_in_a_second_round() -> None:
    def speed(settings: Settings) -> float:
        """A larger batch is of use once its cache fits, and a larger cache is of a little use by itself."""
        cache = float(settings["kv_cache_gib"])
        return min(float(settings["max_num_seqs"]), 64 * cache) + 4 * cache

    found = Machine(speed).tune()
    assert found.best.settings == PRESENT | {"max_num_seqs": 256, "kv_cache_gib": 4.0}


def test_where_nothing_is_faster_the_present_stays_and_nothing_runs_in_turns() -> None:
    found = Machine(hill(PRESENT), noise=0.005).tune()
    assert (found.verdict, found.best is found.present, found.pairs, found.speedup) == (
        "nothing faster",
        True,
        [],
        None,
    )


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
def test_noise_alone_is_hardly_ever_taken_for_a_gain(noise: float) -> None:
    """A flat surface: whatever it chooses is luck. At most 5 of 100 searches may believe it."""
    verdicts = [Machine(lambda _: 50.0, noise=noise, seed=seed).tune().verdict for seed in range(100)]
    assert verdicts.count("faster") <= 5
    assert noise < 0.05 or "not reliably faster" in verdicts  # they were tempted


def test_a_machine_that_gets_slower_all_the_time_deceives_nobody() -> None:
    best = PRESENT | {"max_num_seqs": 128}
    slower = Machine(hill(best), drift=0.005).tune()
    assert (slower.best.settings, slower.verdict) == (best, "faster")
    faster = Machine(lambda _: 50.0, drift=-0.03).tune()  # every later trial is 3 % faster
    assert faster.verdict != "faster"


def test_settings_that_kill_the_engine_are_left_out() -> None:
    def speed(settings: Settings) -> float | None:
        return None if float(settings["max_num_seqs"]) > 128 else float(settings["max_num_seqs"])

    found = Machine(speed).tune()
    assert (found.best.settings["max_num_seqs"], found.verdict) == (128, "faster")
    assert [trial.trouble for trial in found.trials if trial.speed is None] == ["out of memory"]


def test_a_winner_that_dies_when_it_runs_again_is_none() -> None:
    seen: list[Settings] = []

    def speed(settings: Settings) -> float | None:
        seen.append(settings)
        again = seen.count(settings) > 1 and settings != PRESENT
        return None if again else hill(PRESENT | {"max_num_seqs": 128})(settings)

    found = Machine(speed).tune()
    assert (found.verdict, found.speedup) == ("not reliably faster", None)


@pytest.mark.parametrize(
    ("trials", "verdict"),
    [
        (2 * PAIRS, "too little time"),  # the last comparison alone takes as long
        (2 * PAIRS + 1, "faster"),  # one step, which is one up the hill
        (2 * PAIRS + 3, "faster"),
    ],
)
def test_the_time_for_the_last_comparison_is_kept_back(trials: int, verdict: str) -> None:
    best = {"max_num_seqs": 512, "max_num_batched_tokens": 8192, "kv_cache_gib": 4.0}
    found = Machine(hill(best)).tune(seconds=trials * TRIAL_SECONDS)
    assert (found.verdict, found.complete) == (verdict, False)
    assert len(found.trials) == 1 + (trials if verdict == "faster" else 0)


@pytest.mark.parametrize(
    ("shown", "never"),
    [
        ({"most_running": 30}, {"max_num_seqs": [128, 256, 512]}),  # half of the places were empty
        ({"kv_cache_peak": 0.4}, {"kv_cache_gib": [2.0, 4.0]}),
    ],
)
def test_more_of_what_is_not_used_up_is_not_tried(shown: dict[str, float], never: Axes) -> None:
    best = {"max_num_seqs": 512, "max_num_batched_tokens": 8192, "kv_cache_gib": 4.0}
    machine = Machine(hill(best))

    def measure(settings: Settings) -> Trial:
        trial = machine.measure(settings)
        return Trial(settings, trial.seconds, speed=trial.speed, **{"kv_cache_peak": 1.0, **shown})  # type: ignore[arg-type]

    found = tune(measure, measure(PRESENT), AXES, seconds=3600, clock=lambda: machine.now)
    for name, values in never.items():
        assert not {asked[name] for asked in machine.asked} & set(values)
    assert found.best.settings["max_num_batched_tokens"] == 8192


def test_what_is_not_allowed_is_not_tried() -> None:
    machine = Machine(hill({"max_num_seqs": 512, "max_num_batched_tokens": 1024, "kv_cache_gib": 1.0}))
    found = machine.tune(allowed=lambda settings: float(settings["max_num_seqs"]) <= 128)
    assert found.best.settings == PRESENT | {"max_num_seqs": 128, "max_num_batched_tokens": 1024}
    assert max(float(asked["max_num_seqs"]) for asked in machine.asked) == 128


@pytest.mark.parametrize(
    ("before", "after", "faster"),
    [
        ([100, 101, 99], [110, 111, 109], True),
        ([100, 101, 99], [101, 102, 103], False),  # the ranges touch
        ([100, 120, 80], [121, 122, 123], False),  # equal runs lie further apart than the two
        ([100, 100, 100], [101, 101, 101], False),  # certain, and not worth it
        ([100, 100], [150, 150], False),  # too few
    ],
)
def test_faster_is_what_equal_runs_do_not_explain(
    before: list[float], after: list[float], faster: bool
) -> None:
    pairs = [(Trial({}, 1, first), Trial({}, 1, second)) for first, second in zip(before, after, strict=True)]
    assert is_faster(pairs) is faster
