"""What comes into linear layers while a model reads the sequences: the measures that rounding is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from docmill.engine.compression.divergence import final_hidden
from docmill.engine.compression.sequences import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Run = Callable[[], object]  # some part of the model, over one batch
Note = Callable[[str, Tensor], None]  # a layer's name and its inputs, [tokens, in], float32, without padding


def largest_inputs(model: PreTrainedModel, names: Sequence[str], read: Sequence[Batch]) -> dict[str, Tensor]:
    """The largest magnitude in each input channel, [in], float32, by the layer's name."""
    found: dict[str, Tensor] = {}

    def note(name: str, rows: Tensor) -> None:
        largest = rows.abs().amax(0)
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    _note_while(
        model, names, note, ((batch, lambda batch=batch: final_hidden(model, batch)) for batch in read)
    )
    return found


def input_products(
    model: PreTrainedModel, names: Sequence[str], runs: Iterable[tuple[Batch, Run]]
) -> dict[str, Tensor]:
    """The mean over tokens of x x^T, [in, in], float32, by the layer's name, while each batch's part is run."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, rows: Tensor) -> None:
        product = rows.t() @ rows
        sums[name] = sums[name] + product if name in sums else product
        counts[name] = counts.get(name, 0) + len(rows)

    _note_while(model, names, note, runs)
    return {name: total / counts[name] for name, total in sums.items()}


@torch.no_grad()
def _note_while(
    model: PreTrainedModel, names: Sequence[str], note: Note, runs: Iterable[tuple[Batch, Run]]
) -> None:
    kept: Tensor

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: note(name, inputs[0][kept].float())

    hooks = [model.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        for batch, run in runs:
            kept = batch.attention_mask.bool()
            run()
    finally:
        for hook in hooks:
            hook.remove()
