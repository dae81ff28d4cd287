"""What a report says of a run over time, as series of numbers for its page: all engines together, on one clock.

The clock of each engine begins when it is first fed. Between two looks at it, its counts are taken to grow evenly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from docmill.ops.report import Report, TimelinePoint

MOST_CELLS = 90  # of time; more are not seen on a page
FEWEST_POINTS = 3  # of an engine's timeline; of fewer no picture is made

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A number for each cell of time. `seconds` are the cells' middles."""

    seconds: list[float]
    prompt_tokens_per_second: list[float]  # computed
    output_tokens_per_second: list[float]
    running_share: list[float]  # of the sequences that all engines compute at once
    kv_cache_share: list[float]  # in use, of those engines that still work


def series_of(report: Report) -> Series | None:
    """None for a run too short to have been looked at more than a few times."""
    timelines: defaultdict[str, list[TimelinePoint]] = defaultdict(list)
    for point in report.timeline:
        timelines[point.worker].append(point)
    longest = max((len(points) for points in timelines.values()), default=0)
    end = max((points[-1].seconds for points in timelines.values()), default=0.0)
    if longest < FEWEST_POINTS or end <= 0:
        return None
    edges = np.linspace(0.0, end, min(MOST_CELLS, longest - 1) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    prompt, output, running, cache, alive = (np.zeros(len(middles)) for _ in range(5))
    for points in timelines.values():
        seconds = [point.seconds for point in points]
        prompt += _rate(edges, seconds, [point.num_prompt_tokens for point in points])
        output += _rate(edges, seconds, [point.num_output_tokens for point in points])
        running += np.interp(middles, seconds, [point.num_running for point in points], right=0.0)
        cache += np.interp(middles, seconds, [point.kv_cache_used for point in points], right=0.0)
        alive += middles <= seconds[-1]
    places = max(1, report.engine_settings.max_num_seqs) * len(timelines)
    return Series(
        _listed(middles),
        _listed(prompt),
        _listed(output),
        _listed(np.minimum(1.0, running / places)),
        _listed(cache / np.maximum(1.0, alive)),
    )


def _rate(edges: Numbers, seconds: Sequence[float], counts: Sequence[int]) -> Numbers:
    """Growth a second in each cell; none after the last look."""
    so_far: Numbers = np.interp(edges, [0.0, *seconds], [0, *counts])
    return np.diff(so_far) / np.diff(edges)


def _listed(numbers: Numbers) -> list[float]:
    return [round(float(number), 4) for number in numbers]
