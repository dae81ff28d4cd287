"""A smaller dense model out of a larger one: narrower FFNs, fewer attention heads, fewer layers; then it is healed.

What goes is what the job's own prompts and answers miss least (`narrow` says how it is chosen, `surgeon` how the
weights that stay make up for it); what is still wrong then, a short distillation mends (`heal`). A Hugging Face config
has one width and one number of heads for all layers, so every layer loses as much, and the result is a plain checkpoint
that vLLM loads as any other.

The demo model, learned on 400 documents and judged on 300 others through vLLM (labels, summaries, translated sentences
right); 100 steps of healing take a minute and a half on two CPU cores:

    source                          99.7 %   99.7 %   96.9 %
    25 % of the FFN's width        100      99.7     96.8      not healed 100    99.3   96.7
    37.5 %                         100      99.7     95.9
    50 %                            99.7    98.3     94.7      not healed  99.7  81.7   59.9
    one layer of four               99.7   100       94.4
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from docmill.engine.compression.checkpoint import check_empty, load_model, save_model
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.sequences import AskedSequence, batches

# What computes is imported where it is used: a job's settings are read where there is no torch.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from docmill.engine.compression.heal import Healing
    from docmill.engine.compression.narrow import Size

Share = Annotated[float, Field(ge=0, lt=1)]
MIN_SEQUENCES = 40  # below it the held-out tenth is a handful


class PruneSettings(BaseModel):
    """How much goes. Shares are rounded: heads to whole groups, the width to a multiple that kernels like."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    ffn_share: Share = 0.25
    """Of the FFN's width."""
    head_share: Share = 0.0
    """Of the attention heads, with their keys and values: the KV cache shrinks too."""
    layers: Annotated[int, Field(ge=0)] = 0
    """Decoder layers."""
    heal_steps: Annotated[int, Field(ge=0)] = 100
    """Of distillation, about 4,000 tokens each; 0: none."""


@dataclass(frozen=True, slots=True)
class LayerCut:
    """What one decoder layer of the source has lost."""

    layer: int  # its position in the source
    dropped: bool
    influence: float | None  # 1 - cosine of its input and output; None where no layer was to go
    kv_heads: tuple[int, ...]  # that are gone, with their query heads
    ffn_channels: tuple[int, ...]  # that are gone


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did. `healing` says how far the answers are from the source's, before and after."""

    num_weights_before: int
    num_weights_after: int
    size_before: Size
    size_after: Size
    layers: tuple[LayerCut, ...]
    healing: Healing


def prune(
    folder: Path,
    out: Path,
    settings: PruneSettings,
    sequences: Sequence[AskedSequence],
    *,
    tell: Callable[[str, float], None],
) -> Pruned:
    """Writes a pruned copy of the checkpoint in `folder` into `out`, which must be empty.

    `tell` hears what is being done and which share of it is done. The same input gives the same weights on the same
    machine. Raises `ModelError`; `UnfitError` where the settings do not fit the model, or there are too few sequences.
    """
    from docmill.engine.compression.divergence import Reference
    from docmill.engine.compression.heal import Lessons, check_room, heal, held_out_tenth, not_healed
    from docmill.engine.compression.narrow import drop_layers, influences, narrow, size_of

    check_empty(out)
    if len(sequences) < MIN_SEQUENCES:
        raise UnfitError(
            f"pruning measures on at least {MIN_SEQUENCES} sequences, and has {len(sequences)}: take a larger sample"
        )
    model = load_model(folder, dtype="float32" if settings.heal_steps else "auto")
    before, num_weights = size_of(model), model.num_parameters()
    after = _size_after(model, settings)
    learned, held_out = held_out_tenth(sequences)
    read = list(batches(learned))
    if settings.heal_steps:
        check_room(model, read)
    tell("reading the source's answers", 0.0)
    reference = Reference(model, held_out)
    lessons = Lessons(model, learned) if settings.heal_steps else None
    found = influences(model, read) if settings.layers else None
    dropped = (
        set(sorted(range(before.num_layers), key=found.__getitem__)[: settings.layers]) if found else set()
    )
    drop_layers(model, dropped)
    cuts = iter(narrow(model, read, after, tell=lambda done: tell("pruning", done)))
    if lessons:
        healing = heal(
            model,
            lessons,
            reference,
            num_steps=settings.heal_steps,
            tell=lambda done: tell("healing", done),
        )
    else:
        healing = not_healed(model, reference)
    num_weights_after = model.num_parameters()
    save_model(model, folder, out)
    layers = tuple(
        LayerCut(
            layer,
            layer in dropped,
            found[layer] if found else None,
            *((), ()) if layer in dropped else next(cuts),
        )
        for layer in range(before.num_layers)
    )
    return Pruned(num_weights, num_weights_after, before, after, layers, healing)


def _size_after(model: PreTrainedModel, settings: PruneSettings) -> Size:
    """What the settings come to for this model. Raises `UnfitError` where they cannot be."""
    from docmill.engine.compression.narrow import Size, size_of

    size = size_of(model)
    if settings.layers >= size.num_layers:
        raise UnfitError(
            f"layers: {settings.layers} of {size.num_layers} that the model has; expected fewer, for one must stay"
        )
    kv_heads = round(size.num_kv_heads * (1 - settings.head_share))
    if settings.head_share and kv_heads in (0, size.num_kv_heads):
        raise UnfitError(
            f"head_share: {settings.head_share} of {size.num_kv_heads} groups of heads is "
            f"{'all' if kv_heads == 0 else 'none'} of them; one is {1 / size.num_kv_heads:.3g}"
        )
    if settings.head_share:
        _check_heads(model, kv_heads)
    step = _width_step(size.ffn_width)
    width = round(size.ffn_width * (1 - settings.ffn_share) / step) * step
    if settings.ffn_share and width in (0, size.ffn_width):
        raise UnfitError(
            f"ffn_share: {settings.ffn_share} of a width of {size.ffn_width}, in steps of {step} that kernels like, is "
            f"{'all' if width == 0 else 'none'} of it; one step is {step / size.ffn_width:.3g}"
        )
    after = Size(size.num_layers - settings.layers, kv_heads, width)
    if after == size:
        raise UnfitError("nothing is to go: set ffn_share, head_share or layers")
    return after


def _check_heads(model: PreTrainedModel, kv_heads: int) -> None:
    """Raises `UnfitError` where vLLM would not load the result."""
    from huggingface_hub.errors import StrictDataclassError

    config = model.config
    if config.model_type == "qwen2":
        raise UnfitError(
            "head_share: vLLM takes the size of Qwen2's heads from their number, so none can go; use 0"
        )
    heads = kv_heads * (config.num_attention_heads // config.num_key_value_heads)
    try:
        type(config).from_dict(
            config.to_dict() | {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
        )
    except (ValueError, StrictDataclassError) as error:  # Llama's number has to divide the hidden size
        raise UnfitError(
            f"head_share: {heads} heads would be left, and transformers says: {error.__cause__ or error}"
        ) from error


def _width_step(width: int) -> int:
    """The largest power of two up to 128 that divides the source's width, at most an eighth of it.

    Kernels and 4-bit groups of the source's width then fit the new one as well.
    """
    step = 1
    while step < 128 and width % (2 * step) == 0 and 16 * step <= width:
        step *= 2
    return step
