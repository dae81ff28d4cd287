"""Through a model one decoder layer at a time, with what comes into the present one at hand for all sequences.

What changes in one layer is so measured without computing those before it again, and what a layer's inputs are
without holding every layer's. In memory: [tokens, hidden] of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from docmill.engine.compression.divergence import final_hidden
from docmill.engine.compression.inputs import input_products
from docmill.engine.compression.sequences import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Walk:
    """Starts at the first decoder layer. The model's layers may be replaced between calls."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, read: Sequence[Batch]):
        self._model, self._batches = model, read
        names = {module: name for name, module in model.named_modules()}
        self.layer_names = [names[layer] for layer in model.base_model.layers]
        self._position = 0
        self._hidden: list[Tensor] = []
        self._arguments: list[
            list[dict[str, Any]]
        ] = []  # of each batch, of each layer: masks, position embeddings
        for batch in read:
            hidden, arguments = _calls(model, batch)
            self._hidden.append(hidden)
            self._arguments.append(arguments)

    @torch.no_grad()
    def final_hidden(self, number: int) -> Tensor:
        """Of one batch, from the present layer to the end: [sequences, tokens, hidden], behind the last norm."""
        hidden = self._hidden[number]
        for position in range(self._position, len(self.layer_names)):
            hidden = self._run(position, number, hidden)
        out: Tensor = self._model.base_model.norm(hidden)
        return out

    def products(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Of the inputs of layers in the present decoder layer, see `input_products`."""
        runs = (
            (batch, lambda number=number: self._run(self._position, number, self._hidden[number]))
            for number, batch in enumerate(self._batches)
        )
        return input_products(self._model, names, runs)

    @torch.no_grad()
    def advance(self) -> None:
        """To the next decoder layer."""
        for number, hidden in enumerate(self._hidden):
            self._hidden[number] = self._run(self._position, number, hidden)
        self._position += 1

    def _run(self, position: int, number: int, hidden: Tensor) -> Tensor:
        out: Tensor = self._model.base_model.layers[position](hidden, **self._arguments[number][position])
        return out


def _calls(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, list[dict[str, Any]]]:
    """The hidden states into the first decoder layer, and what each is called with besides."""
    first: list[Tensor] = []
    arguments: list[dict[str, Any]] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        if not first:
            first.append(args[0])
        arguments.append(kwargs)

    hooks = [
        layer.register_forward_pre_hook(note, with_kwargs=True) for layer in model.base_model.layers
    ]  # fmt: skip
    try:
        final_hidden(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return first[0], arguments
