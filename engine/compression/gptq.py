"""4-bit weights fitted to what comes into the layer: the errors of some columns make up for those of others.

GPTQ (Frantar et al. 2022, arXiv 2210.17323) minimises |W X - Q X|^2 over the layer's inputs X instead of |W - Q|^2.
With H = X X^T, columns are rounded one after the other, and what a column lost is taken from those not yet rounded,
as H^-1 says they can make up for it. Columns of the largest inputs go first. Scales and zero points stay those that
`round_weight` finds before, so that the order of columns is nobody's business afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from docmill.engine.compression.formats import Format, quantises_activations
from docmill.engine.compression.layer_groups import layer_groups
from docmill.engine.compression.rounding import RoundedWeight, round_weight
from docmill.engine.compression.sequences import Batch
from docmill.engine.compression.walk import Walk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DAMPING = 0.01  # of H's mean diagonal, added to it: the inputs of a small sample do not span all directions
BLOCK = 128  # columns whose errors reach the others together


def fitted_weights(
    model: PreTrainedModel, read: Sequence[Batch], formats: Mapping[str, Format]
) -> dict[str, RoundedWeight]:
    """Weights of the layers named, each in its format; 4 bits are fitted to the inputs that the batches bring.

    Inputs are those of the unquantised model. Only those of one decoder layer are in memory at a time.
    """
    fitted = [name for name, form in formats.items() if not quantises_activations(form)]
    found: dict[str, RoundedWeight] = {}
    if fitted:
        walk = Walk(model, read)
        for prefix in walk.layer_names:
            inside = layer_groups(name for name in fitted if name.startswith(f"{prefix}."))
            products = walk.products([names[0] for names in inside.values()])
            for names in inside.values():
                for name in names:
                    weight = model.get_submodule(name).weight
                    found[name] = fit_weight(weight, formats[name], products[names[0]])
            walk.advance()
    others = formats.keys() - found.keys()
    return found | {name: round_weight(model.get_submodule(name).weight, formats[name]) for name in others}


@torch.no_grad()
def fit_weight(weight: Tensor, form: Format, products: Tensor | None) -> RoundedWeight:
    """`weight`: [out, in]. `products`: X X^T / tokens, [in, in]; without it, each weight goes to its nearest value."""
    if products is None:
        return round_weight(weight, form)
    rounded = round_weight(weight, form, importance=products.diagonal())
    order = products.diagonal().argsort(descending=True)
    size = rounded.args.group_size or weight.shape[1]
    scales = rounded.scales.repeat_interleave(size, 1)[:, order]  # [out, in], by column
    points = rounded.zero_points.float().repeat_interleave(size, 1)[:, order]
    left = weight.detach().float()[:, order]
    inverse = _inverse_factor(products[order][:, order])
    values = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = torch.empty_like(left[:, start:end])
        for column in range(start, end):
            scale, point = scales[:, column], points[:, column]
            values[:, column] = (left[:, column] / scale + point).round().clamp(-8, 7)
            lost = left[:, column] - (values[:, column] - point) * scale
            errors[:, column - start] = lost / inverse[column, column]
            left[:, column + 1 : end] -= errors[:, column - start, None] * inverse[column, column + 1 : end]
        left[:, end:] -= errors @ inverse[start:end, end:]
    return RoundedWeight(
        values[:, order.argsort()].to(torch.int8), rounded.scales, rounded.zero_points, rounded.args
    )


def _inverse_factor(products: Tensor) -> Tensor:
    """Upper triangular U with H^-1 = U^T U, of the damped H; in float64, which such sums need on small samples."""
    damped = products.double()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean().clamp_min(1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
