"""How much each linear layer's precision matters to a model, measured: the ground for choosing it layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from docmill.engine.compression.checkpoint import linear_layers, load_model
from docmill.engine.compression.formats import Format, bits_per_weight, fits, quantises_activations
from docmill.engine.compression.layer_groups import layer_groups
from docmill.engine.compression.sequences import AskedSequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from docmill.engine.compression.divergence import Reference
    from docmill.engine.compression.walk import Walk

Tell = Callable[[str, float], None]  # what is being done, and how far it is, from 0 to 1


class GroupSensitivity(BaseModel):
    """Layers that vLLM keeps as one product. A format that does not fit their shape has no figures."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    layers: tuple[str, ...]
    num_weights: int
    bits: dict[Format, float]
    """A weight, with its share of the scales."""
    divergence: dict[Format, float]
    """Nats a token, where this group alone is quantised; see `divergence`."""


class Sensitivity(BaseModel):
    """Of a model, by the group's name, in the model's order."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    groups: dict[str, GroupSensitivity]
    num_sequences: int
    num_tokens: int
    """Of answers; the mean is over these."""


def measure_sensitivity(
    folder: Path,
    sequences: Sequence[AskedSequence],
    formats: Sequence[Format],
    *,
    smooth: bool = False,
    tell: Tell = lambda _what, _share: None,
) -> Sensitivity:
    """For each group and format the divergence from the unquantised model where that group alone is quantised.

    Weights and activations are rounded as at run time. `smooth`: of the model smoothed as `quantise` would, for
    8 bits in all groups. What lies before a group does not change, so it is computed once: the whole takes as long
    as reading the sequences `groups * formats / 2` times. On a GPU the model computes in its own 16 bits, below whose
    rounding all groups look alike. Raises `ModelError`; `UnfitError` where a divergence is not finite.
    """
    import torch

    from docmill.engine.compression.divergence import Reference
    from docmill.engine.compression.smoothing import smooth_for
    from docmill.engine.compression.walk import Walk

    model = load_model(folder)
    reference = Reference(model, sequences)
    groups = layer_groups(linear_layers(model))
    shapes = {name: tuple(layer.weight.shape) for name, layer in linear_layers(model).items()}
    able = {
        group: [form for form in formats if all(fits(form, *shapes[name]) for name in names)]
        for group, names in groups.items()
    }
    if smooth:
        eight_bits = {
            group: next((form for form in forms if quantises_activations(form)), None)
            for group, forms in able.items()
        }
        smooth_for(model, reference, eight_bits)
    found: dict[str, dict[Format, float]] = {group: {} for group in groups}
    with torch.no_grad():
        walk = Walk(model, reference.batches)
        for position, prefix in enumerate(walk.layer_names):
            inside = [group for group in groups if group.startswith(f"{prefix}.")]
            for number, group in enumerate(inside):
                tell(f"sensitivity of {group}", (position + number / len(inside)) / len(walk.layer_names))
                for form in able[group]:
                    found[group][form] = _divergence(model, reference, walk, groups[group], form)
            walk.advance()
    tell("sensitivity", 1.0)
    return Sensitivity(
        groups={
            group: GroupSensitivity(
                layers=names,
                num_weights=sum(shapes[name][0] * shapes[name][1] for name in names),
                bits={form: bits_per_weight(form, shapes[names[0]][1]) for form in able[group]},
                divergence=found[group],
            )
            for group, names in groups.items()
        },
        num_sequences=len(sequences),
        num_tokens=reference.num_tokens,
    )


def _divergence(
    model: PreTrainedModel, reference: Reference, walk: Walk, names: Sequence[str], form: Format
) -> float:
    """With these layers, which lie in the walk's decoder layer and have the same inputs, in this format."""
    from docmill.engine.compression.divergence import finite
    from docmill.engine.compression.gptq import fit_weight
    from docmill.engine.compression.rounding import RoundedLinear, replaced

    products = {} if quantises_activations(form) else walk.products(names[:1])
    rounded = {}
    for name in names:
        layer: Any = model.get_submodule(name)
        rounded[name] = RoundedLinear(layer, form, fit_weight(layer.weight, form, products.get(names[0])))
    head = model.get_output_embeddings().weight
    total = 0.0
    with replaced(model, rounded):
        for number, batch in enumerate(reference.batches):
            total += reference.batch_divergence(number, walk.final_hidden(number)[batch.answer_mask], head)
    return finite(total / reference.num_tokens, f"{', '.join(names)} in {form}")
