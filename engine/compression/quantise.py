"""A checkpoint out of another, each group of layers in the precision that was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from docmill.engine.compression.checkpoint import check_empty, linear_layers, load_model, weight_bytes
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.formats import UNQUANTISED_BITS, Format, bits_per_weight, fits
from docmill.engine.compression.layer_groups import layer_groups
from docmill.engine.compression.sensitivity import Tell
from docmill.engine.compression.sequences import AskedSequence

if TYPE_CHECKING:
    from torch import nn


class Quantised(BaseModel):
    """What was written."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    bytes_before: int
    """Of the weight files."""
    bytes_after: int
    bits: float
    """Mean of a weight in the linear layers, scales included."""
    precisions: dict[str, Format | None]
    """By group of layers, all of them."""
    alpha: float | None
    """Of the smoothing; 0 where it was tried and did not help, null where it was not asked for."""
    divergence: float
    """Nats a token from the source, of the whole quantised model on the sequences that it was fitted to."""
    held_out_divergence: float | None = None
    """The same on `held_out`; null without any."""


def quantise(
    folder: Path,
    out: Path,
    precisions: Mapping[str, Format | None],
    sequences: Sequence[AskedSequence],
    *,
    smooth: bool,
    held_out: Sequence[AskedSequence] = (),
    tell: Tell = lambda _what, _share: None,
) -> Quantised:
    """Write the model of `folder` to `out` with its groups (see `layer_groups`) as `precisions` says.

    A group that is not named stays in 16 bits. `sequences` are what ranges, 4-bit weights and smoothing are fitted to;
    on `held_out` the result is only measured.
    Raises `ModelError`; `UnfitError` where a group is none of the model's, or its layers do not fit the format; and
    FileExistsError where `out` is not empty.
    """
    from docmill.engine.compression.divergence import Reference, finite
    from docmill.engine.compression.gptq import fitted_weights
    from docmill.engine.compression.quantised_checkpoint import save_quantised
    from docmill.engine.compression.rounding import RoundedLinear, replaced
    from docmill.engine.compression.smoothing import smooth_for

    check_empty(out)
    model = load_model(folder)
    layers = linear_layers(model)
    groups = layer_groups(layers)
    precisions = {group: precisions.get(group) for group in groups} | dict(precisions)
    formats = _formats(precisions, groups, layers)
    tell("reading the sequences", 0.0)
    reference = Reference(model, sequences)
    judge = Reference(model, held_out) if held_out else None
    alpha = None
    if smooth:
        tell("smoothing", 0.1)
        alpha = smooth_for(model, reference, precisions)
    tell("rounding weights", 0.5)
    weights = fitted_weights(model, reference.batches, formats)
    tell("measuring", 0.8)
    rounded = {name: RoundedLinear(layers[name], form, weights[name]) for name, form in formats.items()}
    with replaced(model, rounded):
        divergence = finite(reference.divergence(model), "the quantised model")
        held_out_divergence = finite(judge.divergence(model), "the quantised model") if judge else None
    tell("writing", 0.9)
    save_quantised(model, folder, out, formats=formats, weights=weights)
    tell("quantised", 1.0)
    return Quantised(
        bytes_before=weight_bytes(folder),
        bytes_after=weight_bytes(out),
        bits=_mean_bits(layers, formats),
        precisions=precisions,
        alpha=alpha,
        divergence=divergence,
        held_out_divergence=held_out_divergence,
    )


def _formats(
    precisions: Mapping[str, Format | None],
    groups: Mapping[str, tuple[str, ...]],
    layers: Mapping[str, nn.Linear],
) -> dict[str, Format]:
    """By layer; only those that are quantised."""
    if unknown := sorted(precisions.keys() - groups.keys()):
        raise UnfitError(f"no such group of layers: {', '.join(unknown)}; expected e.g. {next(iter(groups))}")
    formats = {name: form for group, form in precisions.items() if form for name in groups[group]}
    for name, form in formats.items():
        shape = tuple(layers[name].weight.shape)
        if not fits(form, *shape):
            raise UnfitError(f"{name} has {shape} weights, for which vLLM has no kernel in {form}")
    return formats


def _mean_bits(layers: Mapping[str, nn.Linear], formats: Mapping[str, Format]) -> float:
    total = num_weights = 0.0
    for name, layer in layers.items():
        form = formats.get(name)
        bits = bits_per_weight(form, layer.in_features) if form else UNQUANTISED_BITS
        total += bits * layer.weight.numel()
        num_weights += layer.weight.numel()
    return total / num_weights
