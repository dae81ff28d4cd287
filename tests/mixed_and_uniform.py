"""Measured precision against uniform and against blind mixtures of the same size, on documents it was not fitted to.

    python -P tests/mixed_and_uniform.py [documents to fit] [documents to judge]

Models are computed as vLLM will compute them (`RoundedLinear`), without writing them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from asked_demo import DEMO, asked_demo

from docmill.engine.compression.checkpoint import linear_layers, load_model
from docmill.engine.compression.divergence import Reference, final_hidden
from docmill.engine.compression.gptq import fitted_weights
from docmill.engine.compression.precision import Precisions, choose, foretell
from docmill.engine.compression.rounding import RoundedLinear, replaced
from docmill.engine.compression.sensitivity import Sensitivity, measure_sensitivity
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.compression.smoothing import smooth_for


@dataclass(frozen=True)
class Judged:
    """Of one choice: size, and what the held-out documents say of it."""

    name: str
    bits: float
    foretold: float  # divergence on the sequences that the sensitivity was measured on, added up
    divergence: float  # measured on the held-out ones
    same_answers: float  # share of them whose greedy answer is the source's to the last token


class Judge:
    """Quantises the demo model by choices and judges it by sequences that it has not seen."""

    def __init__(self, fitted_to: Sequence[AskedSequence], held_out: Sequence[AskedSequence]):
        source = load_model(DEMO)
        self._fitted_to, self._held_out = Reference(source, fitted_to), Reference(source, held_out)

    def judge(
        self, name: str, precisions: Precisions, sensitivity: Sensitivity, *, smooth: bool = False
    ) -> Judged:
        model = load_model(DEMO)
        if smooth:
            smooth_for(model, self._fitted_to, precisions)
        formats = {
            layer: form
            for group, form in precisions.items()
            if form
            for layer in sensitivity.groups[group].layers
        }
        weights = fitted_weights(model, self._fitted_to.batches, formats)
        layers = linear_layers(model)
        rounded = {
            layer: RoundedLinear(layers[layer], form, weights[layer]) for layer, form in formats.items()
        }
        point = foretell(sensitivity, precisions)
        with replaced(model, rounded):
            return Judged(
                name,
                point.bits,
                point.divergence,
                self._held_out.divergence(model),
                same_answers(model, self._held_out),
            )


@torch.no_grad()
def same_answers(model: torch.nn.Module, reference: Reference) -> float:
    """Share of sequences whose every answer token is the model's likeliest, given those before it.

    The answers are the source's greedy ones, so this is the share that the model would write alike.
    """
    right = total = 0
    for batch in reference.batches:
        hidden = final_hidden(model, batch)
        for row, marked in enumerate(batch.answer_mask):
            likeliest = model.get_output_embeddings()(hidden[row][marked]).argmax(-1)
            right += bool((likeliest == batch.token_ids[row].roll(-1)[marked]).all())
            total += 1
    return right / total


def blind_mixture(sensitivity: Sensitivity, max_bits: float, seed: int) -> Precisions:
    """8 bits for groups in random order while they fit, 4 for the others."""
    order = list(sensitivity.groups)
    random.Random(seed).shuffle(order)
    chosen: Precisions = dict.fromkeys(sensitivity.groups, "w4a16")
    for group in order:
        larger: Precisions = chosen | {group: "int8"}
        if foretell(sensitivity, larger).bits <= max_bits:
            chosen = larger
    return chosen


def main(num_fitted: int = 20, num_held_out: int = 100) -> None:
    fitted_to, held_out = asked_demo(num_fitted, seed=11), asked_demo(num_held_out, seed=12)
    sensitivity = measure_sensitivity(DEMO, fitted_to, ["int8", "fp8", "w4a16"])
    judge = Judge(fitted_to, held_out)
    for form in ("int8", "fp8", "w4a16"):
        print(
            judge.judge(f"uniform {form}", dict.fromkeys(sensitivity.groups, form), sensitivity), flush=True
        )
    smoothed = dict.fromkeys(sensitivity.groups, "int8")
    print(judge.judge("uniform int8, smoothed", smoothed, sensitivity, smooth=True), flush=True)
    int8_bits = foretell(sensitivity, dict.fromkeys(sensitivity.groups, "int8")).bits
    for bits in (int8_bits, 7.0, 6.0, 5.0, 4.6):
        chosen = choose(sensitivity, ["int8", "w4a16"], max_bits=bits)
        print(judge.judge(f"auto {bits:.2f}", chosen, sensitivity), flush=True)
        for seed in range(3 if bits < int8_bits else 0):
            mixture = blind_mixture(sensitivity, bits, seed)
            print(judge.judge(f"blind {bits:.2f}", mixture, sensitivity), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
