"""What is written down of each kill and each job, and how it is summed up."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

PROMISED_SECONDS = 5.0  # of an engine's work that a death may cost, beside what was in flight


@dataclass
class Kill:
    """One disturbance."""

    layer: str
    how: str
    at_share: float  # of the job's tokens that were in the store
    in_flight_tokens: int = 0  # that the victim's engine had computed for requests it had not finished
    tokens_per_second: float = 0.0  # the fastest that the victim was seen to be
    beat_age: float = 0.0  # seconds between the last beat that was read and the kill: what is not counted
    redone_tokens: int = 0

    @property
    def bound(self) -> float:
        """What it may cost."""
        return self.in_flight_tokens + PROMISED_SECONDS * self.tokens_per_second

    @property
    def redone_at_most(self) -> float:
        """With what the victim may have computed since its last beat."""
        return self.redone_tokens + self.beat_age * self.tokens_per_second


@dataclass
class JobOutcome:
    """One job: its kills, and what was found at its end."""

    layer: str
    seed: int
    store: str
    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    tokens: int = 0  # of one undisturbed pass
    engine_tokens: int = 0  # of all workers, as their last beats told
    lost: int = 0  # (document, task) pairs that the output lacks
    doubled: int = 0
    unequal: int = 0
    unbalanced: int = 0  # tasks
    left_objects: list[str] = field(default_factory=list)
    left_processes: list[str] = field(default_factory=list)
    slow_deaths: list[str] = field(default_factory=list)  # processes that outlived their parent by too long
    over_bound: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether every invariant held."""
        return not (
            self.lost
            or self.doubled
            or self.unequal
            or self.unbalanced
            or self.left_objects
            or self.left_processes
            or self.over_bound
            or self.slow_deaths
            or self.problems
        )


def summarise(outcomes: Iterable[JobOutcome]) -> dict[str, Any]:
    """The figures of the last line."""
    outcomes = list(outcomes)
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    by_layer = Counter(kill.layer for kill in kills)
    return {
        "kills": len(kills),
        "jobs": len(outcomes),
        "runs": sum(outcome.runs for outcome in outcomes),
        "clean": all(outcome.clean for outcome in outcomes),
        "kills_by_layer": dict(sorted(by_layer.items())),
        "kills_by_signal": dict(sorted(Counter(f"{kill.layer}: {kill.how}" for kill in kills).items())),
        **{
            name: sum(getattr(outcome, name) for outcome in outcomes)
            for name in ("lost", "doubled", "unequal", "unbalanced")
        },
        "left_objects": sum(len(outcome.left_objects) for outcome in outcomes),
        "left_processes": sum(len(outcome.left_processes) for outcome in outcomes),
        "over_bound": sum(len(outcome.over_bound) for outcome in outcomes),
        "redone_tokens": {
            layer: _redone([kill for kill in kills if kill.layer == layer]) for layer in sorted(by_layer)
        },
        "all_redone_share": _share(outcomes),
        "problems": [
            f"{outcome.layer} seed {outcome.seed}: {text}"
            for outcome in outcomes
            for text in (
                *outcome.problems,
                *outcome.over_bound,
                *outcome.slow_deaths,
                *(f"left: {name}" for name in (*outcome.left_objects, *outcome.left_processes)),
            )
        ],
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
    }


def _redone(kills: list[Kill]) -> dict[str, float]:
    tokens = [kill.redone_tokens for kill in kills]
    return {
        "kills": len(kills),
        "median": statistics.median(tokens),
        "max": max(tokens),
        "median_in_flight": statistics.median(kill.in_flight_tokens for kill in kills),
        "max_share_of_bound": round(max(kill.redone_tokens / max(kill.bound, 1.0) for kill in kills), 3),
        "max_uncounted": round(max(kill.beat_age * kill.tokens_per_second for kill in kills)),
    }


def _share(outcomes: list[JobOutcome]) -> dict[str, float]:
    """Engine tokens of all runs beyond one pass, as a share of one pass; for all layers and by layer."""
    found = {}
    for layer in ("all", *sorted({outcome.layer for outcome in outcomes})):
        some = [outcome for outcome in outcomes if layer in ("all", outcome.layer) and outcome.tokens]
        once = sum(outcome.tokens for outcome in some)
        if once:
            found[layer] = round(sum(max(0, o.engine_tokens - o.tokens) for o in some) / once, 4)
    return found


def as_json(outcome: JobOutcome) -> dict[str, Any]:
    """All of one job."""
    return {**asdict(outcome), "seconds": round(outcome.seconds, 1)}
