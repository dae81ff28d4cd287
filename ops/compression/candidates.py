"""A recipe's checkpoints, one after the other, the smallest first; whoever judges them stops at the first that holds.

`auto` measures how much each group of layers suffers from 8 bits, takes them all, then fewer and fewer of the sensitive
ones. The other recipes say exactly what to make: only their first candidate may be published, and what comes after it
is there to say what would have held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from docmill.engine.compression.config import CompressConfig
from docmill.engine.compression.sequences import AskedSequence
from docmill.ops.compression.report import CurvePoint, LayerPrecision

AUTO_FORMATS = {"cpu": ("int8",), "cuda": ("fp8", "int8")}
BUDGETS = (1.0, 0.5, 0.25, 0.125)  # of the divergence that all layers in 8 bits would cost together
PRUNE_STEPS = (1.0, 0.5, 0.25)  # of the shares that the job asks for

Tell = Callable[[str, float], None]  # what is done, and how much of it from 0 to 1


@dataclass(frozen=True, slots=True)
class Material:
    """What candidates are made of."""

    source: Path
    folder: Path  # to work in; each candidate gets a folder there
    config: CompressConfig
    device: str  # cpu or cuda
    sequences: list[AskedSequence]
    token_counts: Callable[[], Mapping[int, int]]  # of the corpus; only trimming asks
    tell: Tell


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint that unmodified vLLM loads."""

    setting: str
    folder: Path
    bits_per_weight: float | None = None
    layers: list[LayerPrecision] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def candidates(material: Material) -> Iterator[Candidate]:
    """All of a recipe's, made as they are asked for."""
    recipe = material.config.recipe
    if recipe == "prune":
        return _pruned(material)
    if recipe == "trim":
        return _trimmed(material)
    return _quantised(material)


def _quantised(material: Material) -> Iterator[Candidate]:
    from docmill.engine.compression.precision import choose, curve
    from docmill.engine.compression.quantise import quantise
    from docmill.engine.compression.sensitivity import measure_sensitivity

    recipe = material.config.recipe
    formats = AUTO_FORMATS[material.device] if recipe == "auto" else (recipe,)
    sensitivity = measure_sensitivity(material.source, material.sequences, formats, tell=material.tell)
    points = [CurvePoint(bits_per_weight=bits, divergence=loss) for bits, loss in curve(sensitivity, formats)]
    everything = max(point.divergence for point in points)
    seen: list[Mapping[str, str | None]] = []
    for budget in BUDGETS:
        precisions = choose(sensitivity, formats, max_divergence=everything * budget)
        if precisions in seen or not any(precisions.values()):
            continue
        seen.append(precisions)
        folder = material.folder / f"quantised-{len(seen)}"
        made = quantise(
            material.source, folder, precisions, material.sequences, smooth=True, tell=material.tell
        )
        yield Candidate(
            _setting(precisions),
            folder,
            bits_per_weight=made.bits_per_weight,
            layers=[
                LayerPrecision(
                    group=group.name,
                    weights=group.num_weights,
                    format=precisions[group.name],
                    divergence=dict(group.divergence),
                )
                for group in sensitivity.groups
            ],
            curve=points,
            figures=made.figures,
        )


def _setting(precisions: Mapping[str, str | None]) -> str:
    """`20 of 24 groups of layers in int8`."""
    formats = sorted({name for name in precisions.values() if name})
    counts = [f"{list(precisions.values()).count(name)} in {name}" for name in formats]
    left = list(precisions.values()).count(None)
    return f"{len(precisions)} groups of layers: {', '.join(counts)}" + (
        f", {left} as they were" if left else ""
    )


def _pruned(material: Material) -> Iterator[Candidate]:
    from docmill.engine.compression.prune import PruneSettings, prune

    config = material.config
    for number, step in enumerate(PRUNE_STEPS, 1):
        settings = PruneSettings(
            ffn_share=config.ffn_share * step,
            head_share=config.head_share * step,
            layers=int(config.layers * step),
        )
        folder = material.folder / f"pruned-{number}"
        made = prune(material.source, folder, settings, material.sequences, tell=material.tell)
        parts = [f"{settings.ffn_share:.1%} of the feed-forward width"]
        parts += [f"{settings.head_share:.1%} of the heads"] if settings.head_share else []
        parts += [f"{settings.layers} layers"] if settings.layers else []
        yield Candidate(f"without {', '.join(parts)}", folder, figures=made.figures)


def _trimmed(material: Material) -> Iterator[Candidate]:
    from docmill.engine.compression.trim import needed_tokens, trim

    folder = material.folder / "trimmed"
    keep = needed_tokens(material.source, material.token_counts())
    made = trim(material.source, folder, keep, tell=material.tell)
    yield Candidate(f"{made.rows_after:,} of {made.rows_before:,} tokens", folder, figures=made.figures)
