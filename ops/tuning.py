"""The search for the engine's fastest settings: which trials to make, and when one set of settings is really faster.

    present settings --one step along one axis at a time, onwards while it gets faster--> the best that was seen
           --present and best again, three times each, in turns--> a verdict

What was fastest once was partly lucky: nothing of the search counts for the verdict. Nothing here knows an engine;
`tuning_trials` makes the trials.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Settings = Mapping[str, int | float | str]
Axes = Mapping[
    str, Sequence[int | float | str]
]  # by setting: its values in order, the present one among them
Verdict = Literal["faster", "nothing faster", "not reliably faster", "too little time"]

STEP_GAIN = 0.02  # by which a trial must be faster for the search to go on from there
WORTH = 0.02  # a smaller gain is not worth settings of one's own
PAIRS = 3
NOT_FULL = 0.9  # of the places in a batch, or of the KV cache: with less in use, more of it is no help


@dataclass(frozen=True, slots=True)
class Trial:
    """One run over the sample. Without a speed where it failed, and then with the trouble it had."""

    settings: Settings
    seconds: float  # it took in all, the model's loading included
    speed: float | None = None  # documents a second, while the engine was fed
    trouble: str | None = None
    tokens_per_second: float = 0.0
    load_seconds: float = 0.0
    full_share: float = 0.0  # of the engine while it was fed
    most_running: int = 0  # sequences computed together; 0: not known
    kv_cache_peak: float = 0.0  # share of it

    def could_use_more(self, name: str) -> bool:
        """Whether there is a reason to give it more of a setting. As of one look a second."""
        if name == "max_num_seqs":
            places = float(self.settings[name])
            return not self.most_running or self.most_running >= NOT_FULL * places
        if name in ("kv_cache_gib", "gpu_memory_utilization"):
            return self.kv_cache_peak >= NOT_FULL
        return True


@dataclass(slots=True)
class Tuned:
    """What a search has found. `best` is the present one's first trial where nothing was faster."""

    present: Trial
    best: Trial
    trials: list[Trial]
    verdict: Verdict
    complete: bool  # False where time was up before every neighbour of the best had been tried
    pairs: list[tuple[Trial, Trial]] = field(default_factory=list)  # present, best

    @property
    def speedup(self) -> float | None:
        """Of the best over the present, in the runs in turns; None without them."""
        speeds = _speeds(self.pairs)
        return statistics.median(speeds[1]) / statistics.median(speeds[0]) if speeds else None

    @property
    def spread(self) -> float | None:
        """How far equal runs lay apart, as a share of the speed; None without runs in turns."""
        speeds = _speeds(self.pairs)
        return max(_range(some) / statistics.median(some) for some in speeds) if speeds else None


def tune(
    measure: Callable[[Settings], Trial],
    present: Trial,
    axes: Axes,
    *,
    seconds: float,
    allowed: Callable[[Settings], bool] = lambda _: True,
    on_trial: Callable[[Trial], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Look for faster settings for so many seconds. `measure` tells of a failed trial, and raises only what ends all.

    The time for the last comparison is kept back, so that what the search finds can be trusted.
    """
    search = _Search(measure, present, allowed, on_trial, deadline=clock() + seconds, clock=clock)
    best = search.descend(axes)
    if best is present:
        tried = len(search.trials) > 1 or not search.out_of_time
        verdict: Verdict = "nothing faster" if tried else "too little time"
        return Tuned(present, present, search.trials, verdict, complete=not search.out_of_time)
    pairs = search.compare(present, best)
    verdict = "faster" if is_faster(pairs) else "not reliably faster"
    return Tuned(present, best, search.trials, verdict, complete=not search.out_of_time, pairs=pairs)


def is_faster(pairs: Sequence[tuple[Trial, Trial]]) -> bool:
    """Whether the second of all pairs is faster than the first of all, by more than equal runs lie apart."""
    speeds = _speeds(pairs)
    if speeds is None or len(pairs) < PAIRS:
        return False
    before, after = speeds
    gain = statistics.mean(after) - statistics.mean(before)
    return (
        min(after) > max(before)
        and gain > max(_range(before), _range(after))
        and gain > WORTH * statistics.mean(before)
    )


class _Search:
    def __init__(
        self,
        measure: Callable[[Settings], Trial],
        present: Trial,
        allowed: Callable[[Settings], bool],
        on_trial: Callable[[Trial], None],
        *,
        deadline: float,
        clock: Callable[[], float],
    ):
        self.trials = [present]
        self.out_of_time = False
        self._measure, self._allowed, self._on_trial = measure, allowed, on_trial
        self._deadline, self._clock = deadline, clock
        self._known = {_key(present.settings): present}

    def descend(self, axes: Axes) -> Trial:
        """The best trial, once no step along any axis is faster, or the time is up."""
        best, before = self.trials[0], None
        while best is not before and not self.out_of_time:
            before = best
            for name, values in axes.items():
                best = self._along(best, name, values)
        return best

    def compare(self, present: Trial, best: Trial) -> list[tuple[Trial, Trial]]:
        """Both again, in turns, so that a machine that gets slower meanwhile is slower for both.

        Ends early where one run has shown that the best is not reliably faster.
        """
        pairs: list[tuple[Trial, Trial]] = []
        for number in range(PAIRS):
            order = (present, best) if number % 2 == 0 else (best, present)
            runs = {id(trial): self._run(trial.settings) for trial in order}
            pairs.append((runs[id(present)], runs[id(best)]))
            speeds = _speeds(pairs)
            if speeds is None or min(speeds[1]) <= max(speeds[0]):
                break
        return pairs

    def _along(self, best: Trial, name: str, values: Sequence[int | float | str]) -> Trial:
        """Up while it gets faster; else down while it does."""
        for direction in (1, -1):
            moved = False
            while (value := _next(values, best.settings[name], direction)) is not None:
                if direction == 1 and not best.could_use_more(name):
                    break
                trial = self._try({**best.settings, name: value})
                if trial is None or trial.speed is None or best.speed is None:
                    break
                if trial.speed < best.speed * (1 + STEP_GAIN):
                    break
                best, moved = trial, True
            if moved:
                break
        return best

    def _try(self, settings: Settings) -> Trial | None:
        if not self._allowed(settings):
            return None
        if known := self._known.get(_key(settings)):
            return known
        longest = max(trial.seconds for trial in self.trials)
        if self._clock() + (1 + 2 * PAIRS) * longest > self._deadline:
            self.out_of_time = True
            return None
        trial = self._known[_key(settings)] = self._run(settings)
        return trial

    def _run(self, settings: Settings) -> Trial:
        trial = self._measure(settings)
        self.trials.append(trial)
        self._on_trial(trial)
        return trial


def _next(values: Sequence[int | float | str], value: object, direction: int) -> int | float | str | None:
    place = list(values).index(value) + direction  # type: ignore[arg-type]
    return values[place] if 0 <= place < len(values) else None


def _key(settings: Settings) -> tuple[tuple[str, int | float | str], ...]:
    return tuple(sorted(settings.items()))


def _speeds(pairs: Sequence[tuple[Trial, Trial]]) -> tuple[list[float], list[float]] | None:
    """Of all first and all second trials; None where there are none, or one failed."""
    before = [first.speed for first, _ in pairs if first.speed]
    after = [second.speed for _, second in pairs if second.speed]
    return (before, after) if pairs and len(before) == len(after) == len(pairs) else None


def _range(speeds: Sequence[float]) -> float:
    return max(speeds) - min(speeds)
