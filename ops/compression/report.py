"""The figures of a compression: what was tried, what it lost, what it gained. Written beside the model as JSON."""

from __future__ import annotations

import statistics
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from docmill.ops.report import Machine


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TaskQuality(_Figures):
    """One task of a compressed model on the held-out documents, see `quality`."""

    metric: str
    against: str
    documents: int
    source: float  # quality, from 0 to 1
    compressed: float
    drop: float
    most_drop: float  # with 95 % certainty
    equal_share: float  # of the answers, to the character


class LayerPrecision(_Figures):
    """What a group of linear layers, which vLLM computes as one product, is stored in."""

    group: str
    weights: int
    format: str | None  # None: as the source has it
    divergence: dict[str, float] = Field(
        default_factory=dict
    )  # by format: when it alone is quantised, in nats


class CurvePoint(_Figures):
    """The least loss at a size, as the layers' own sensitivities tell it."""

    bits_per_weight: float
    divergence: float


class Trial(_Figures):
    """One checkpoint that was made and judged."""

    setting: str
    num_bytes: int
    bits_per_weight: float | None = None
    tasks: dict[str, TaskQuality] = Field(default_factory=dict)
    trouble: str | None = None  # why it could not be judged
    figures: dict[str, float] = Field(default_factory=dict)  # of the recipe: rows, widths, divergences

    @property
    def most_drop(self) -> float:
        """Of the task that lost most."""
        return max((task.most_drop for task in self.tasks.values()), default=1.0)


class Side(_Figures):
    """The source or the compressed model, run by turns over the held-out documents."""

    num_bytes: int  # of its files of weights
    load_seconds: list[float] = Field(default_factory=list)
    tokens_per_second: list[float] = Field(default_factory=list)  # while the engine was fed
    peak_memory_mib: list[float] = Field(default_factory=list)  # of the host, by the engine's process


class CompressionReport(_Figures):
    """How a model was made, or why none was published."""

    job: str
    partition: str
    recipe: str
    max_drop: float
    source: str
    source_fingerprint: str
    made_at: datetime
    seconds: float
    calibration_documents: int
    held_out_documents: int
    trials: list[Trial]
    published: int | None = None  # which of the trials
    layers: list[LayerPrecision] = Field(default_factory=list)
    curve: list[CurvePoint] = Field(default_factory=list)
    before: Side
    after: Side | None = None
    machine: Machine
    versions: dict[str, str]

    @property
    def trial(self) -> Trial | None:
        """The one that was published."""
        return None if self.published is None else self.trials[self.published]

    @property
    def size_ratio(self) -> float | None:
        """Bytes of the compressed weights to those of the source."""
        return self.after.num_bytes / self.before.num_bytes if self.after else None

    @property
    def speed_ratios(self) -> list[float]:
        """Tokens a second to those of the source, one for each pair of runs."""
        if self.after is None:
            return []
        pairs = zip(self.before.tokens_per_second, self.after.tokens_per_second, strict=False)
        return [after / before for before, after in pairs if before]

    @property
    def speed_ratio(self) -> float | None:
        """Their median."""
        return statistics.median(self.speed_ratios) if self.speed_ratios else None
