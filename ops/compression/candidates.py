"""A recipe's checkpoints, one after the other, the smallest first; whoever judges them stops at the first that holds.

`auto` measures how much each group of layers suffers from 8 bits, takes them all, then fewer and fewer of the sensitive
ones. The other recipes say exactly what to make: only their first candidate may be published, and what comes after it
is there to say what would have held. A trimmed vocabulary has the tokens of all documents; judged is one that has those
of the other half alone, since the held-out documents would else say nothing of another day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from docmill.engine.compression.config import AUTO_BUDGETS, CompressConfig
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.formats import Format, fast_formats
from docmill.engine.compression.sequences import AskedSequence
from docmill.ops.compression.corpus_tokens import CorpusTokens
from docmill.ops.compression.report import CurvePoint, LayerPrecision

CURVE_POINTS = 100
# Requests that layers are measured and rounded on: each layer reads them several times over.
MOST_SEQUENCES, MOST_TOKENS = 256, 1 << 17
PRUNE_STEPS = (1.0, 0.5, 0.25)  # of the shares that the job asks for

Tell = Callable[[str, float], None]  # what is done, and how much of it from 0 to 1


@dataclass(frozen=True, slots=True)
class Material:
    """What candidates are made of."""

    source: Path
    folder: Path  # to work in; each candidate gets a folder there
    config: CompressConfig
    device: str  # cpu or cuda
    sequences: list[AskedSequence]  # mixed, so that any number of them has some of every task
    corpus_tokens: Callable[[], CorpusTokens]  # only trimming asks
    tell: Tell


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint that unmodified vLLM loads."""

    setting: str
    folder: Path
    judged: Path | None = None  # in its place, where `folder` knows of the held-out documents
    bits_per_weight: float | None = None
    layers: list[LayerPrecision] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def formats_of(config: CompressConfig, device: str) -> tuple[Format, ...]:
    """In which layers may be stored; none for recipes that quantise nothing."""
    if config.recipe == "auto":
        return config.formats or fast_formats(device)
    return (config.recipe,) if config.recipe in ("int8", "fp8", "w4a16") else ()


def candidates(material: Material) -> Iterator[Candidate]:
    """All of a recipe's, made as they are asked for."""
    recipe = material.config.recipe
    if recipe == "prune":
        return _pruned(material)
    if recipe == "trim":
        return _trimmed(material)
    return _quantised(material)


def _quantised(material: Material) -> Iterator[Candidate]:
    from docmill.engine.compression.precision import Precisions, choose, curve, foretell
    from docmill.engine.compression.quantise import quantise
    from docmill.engine.compression.sensitivity import measure_sensitivity

    formats = formats_of(material.config, material.device)
    sequences = some_of(material.sequences)
    sensitivity = measure_sensitivity(material.source, sequences, formats, smooth=True, tell=material.tell)
    points = [
        CurvePoint(bits_per_weight=point.bits, divergence=point.divergence)
        for point in curve(sensitivity, formats, max_points=CURVE_POINTS)
    ]
    everything = max(point.divergence for point in points)
    seen: list[Precisions] = []
    for budget in AUTO_BUDGETS:
        precisions = choose(sensitivity, formats, max_divergence=everything * budget)
        if precisions in seen or not any(precisions.values()):
            continue
        seen.append(precisions)
        folder = material.folder / f"quantised-{len(seen)}"
        made = quantise(material.source, folder, precisions, sequences, smooth=True, tell=material.tell)
        yield Candidate(
            _setting(precisions),
            folder,
            bits_per_weight=made.bits,
            layers=[
                LayerPrecision(
                    group=name,
                    weights=group.num_weights,
                    format=precisions[name],
                    divergence={str(form): loss for form, loss in group.divergence.items()},
                )
                for name, group in sensitivity.groups.items()
            ],
            curve=points,
            figures={
                "divergence": made.divergence,
                "divergence_foretold": foretell(sensitivity, precisions).divergence,
                **({"smoothing_alpha": made.alpha} if made.alpha is not None else {}),
            },
        )


def some_of(sequences: Sequence[AskedSequence]) -> list[AskedSequence]:
    """As many from the start as are measured on, at least one."""
    ends = accumulate(len(sequence.token_ids) for sequence in sequences)
    return [
        sequence
        for number, (sequence, end) in enumerate(zip(sequences, ends, strict=True))
        if number == 0 or (number < MOST_SEQUENCES and end <= MOST_TOKENS)
    ]


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
            heal_steps=config.heal_steps,
        )
        folder = material.folder / f"pruned-{number}"
        try:
            made = prune(material.source, folder, settings, material.sequences, tell=material.tell)
        except UnfitError:
            if number == 1:
                raise
            return  # so little that it rounds to nothing
        before, after = made.size_before, made.size_after
        parts = [
            f"{what} {old:,} to {new:,}"
            for what, old, new in (
                ("feed-forward width", before.ffn_width, after.ffn_width),
                ("groups of heads", before.num_kv_heads, after.num_kv_heads),
                ("layers", before.num_layers, after.num_layers),
            )
            if old != new
        ]
        yield Candidate(
            ", ".join(parts),
            folder,
            figures={
                "weights_before": made.num_weights_before,
                "weights_after": made.num_weights_after,
                "divergence_before_healing": made.healing.divergence_before,
                "divergence": made.healing.divergence_after,
            },
        )


def _trimmed(material: Material) -> Iterator[Candidate]:
    from docmill.engine.compression.trim import needed_tokens, trim

    folder, judged, corpus = (
        material.folder / "trimmed",
        material.folder / "trimmed-half",
        material.corpus_tokens(),
    )
    made = trim(material.source, folder, needed_tokens(material.source, corpus.counts), tell=material.tell)
    half = trim(
        material.source, judged, needed_tokens(material.source, corpus.half_counts), tell=material.tell
    )
    yield Candidate(
        f"vocabulary {made.num_rows_before:,} to {made.num_rows_after:,} tokens (judged with {half.num_rows_after:,} "
        "of half the documents)",
        folder,
        judged=judged,
        figures={
            "rows_before": made.num_rows_before,
            "rows_after": made.num_rows_after,
            "bytes_before": made.num_bytes_before,
            "bytes_after": made.num_bytes_after,
            "unseen_share": corpus.unseen_share,
            "unseen_document_share": corpus.unseen_document_share,
        },
    )
