"""Weights and activations rounded to a format, and a model that computes as the quantised one will.

The algorithms are ours: llm-compressor, which has them too, pins another compressed-tensors than vLLM does. Formulas of
scale and zero point, rounding and packing are compressed-tensors' own. Activations are rounded as our kernels and
vLLM's do it while the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from torch import Tensor, nn
from torch.nn import functional as F

from docmill.engine.compression.formats import Format, quantises_activations, scheme_of
from docmill.kernels._quantization import quantize_rows

QUANT_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
# Shares of the full range at which values are cut off. A tighter range cuts few weights and rounds all others finer.
RANGES = tuple(1 - step / 40 for step in range(21))


@dataclass(frozen=True)
class RoundedWeight:
    """A layer's weight as it is stored. Groups: one for 8 bits, else by `group_size`."""

    values: Tensor  # [out, in], int8 or float8_e4m3fn
    scales: Tensor  # [out, groups], float32; 4 bits: rounded to bfloat16, in which vLLM's kernels take them
    zero_points: Tensor  # [out, groups], int8; zeros where symmetric
    args: QuantizationArgs

    def real(self) -> Tensor:
        """[out, in], float32: what the values mean."""
        return dequantize(self.values, self.scales, self.zero_points, self.args)


def round_weight(weight: Tensor, form: Format, *, importance: Tensor | None = None) -> RoundedWeight:
    """To the nearest values of the format, with the ranges whose squared error is least, a search for each group.

    `weight`: [out, in], any float type. `importance`: [in], how much an error in that input's weights counts, e.g. the
    mean square of the input; without it all count the same.
    """
    scheme = scheme_of(form, weight.shape[1])
    args = scheme.weights
    assert args is not None
    weight = weight.detach().float()
    groups = weight.unflatten(1, (-1, args.group_size or weight.shape[1]))  # [out, groups, size]
    low, high = groups.amin(-1), groups.amax(-1)
    counts = None if importance is None else importance.float().unflatten(0, groups.shape[1:])
    best_error = torch.full_like(low, torch.inf)
    best_scales, best_points = torch.ones_like(low), torch.zeros_like(low, dtype=torch.int8)
    for share in RANGES:
        scales, points = scales_of(low * share, high * share, args)
        values = quantize(weight, scales, points, args)
        squares = (dequantize(values, scales, points, args) - weight).square().unflatten(1, groups.shape[1:])
        error = (squares if counts is None else squares * counts).sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scales = torch.where(better, scales, best_scales)
        best_points = torch.where(better, points, best_points)
    values = quantize(weight, best_scales, best_points, args, dtype=args.pytorch_dtype())
    return RoundedWeight(values, best_scales, best_points, args)


def scales_of(low: Tensor, high: Tensor, args: QuantizationArgs) -> tuple[Tensor, Tensor]:
    """Scales, float32, and zero points, int8, for values from `low` to `high`; all of one shape."""
    scales, points = calculate_qparams(low, high, args)
    if args.num_bits == 4:
        scales = scales.bfloat16().float()
    return scales, points.to(torch.int8)


def round_activations(rows: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    """Each token by a scale of its own: the 8-bit values, [..., size], and the scales, [..., 1], float32."""
    return quantize_rows(rows.float(), QUANT_DTYPES[form])


class RoundedLinear(nn.Module):
    """A linear layer as it computes once it is quantised.

    8-bit values are multiplied as they are, in the model's float type, which holds every one of them exactly, and
    then scaled: as hardware does it. float16 holds them but not their sums, so float32 takes its place. 4-bit weights
    are read back and multiplied.
    """

    def __init__(self, layer: nn.Linear, form: Format, rounded: RoundedWeight):
        super().__init__()
        self.form, self.bias = form, layer.bias
        dtype = layer.weight.dtype
        if quantises_activations(form):
            wide = torch.float32 if dtype == torch.float16 else dtype
            self.weight, self.scales = rounded.values.to(wide), rounded.scales.t()
        else:
            self.weight = rounded.real().to(dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if not quantises_activations(self.form):
            return F.linear(rows, self.weight, self.bias)
        values, scales = round_activations(rows, self.form)
        products = F.linear(values.to(self.weight.dtype), self.weight).float() * scales * self.scales
        return (products if self.bias is None else products + self.bias).to(rows.dtype)


def rounded_layers(model: nn.Module, formats: Mapping[str, Format]) -> dict[str, RoundedLinear]:
    """Layers by their names, each in its format, without regard to what comes into them."""
    found = {}
    for name, form in formats.items():
        layer: Any = model.get_submodule(name)
        found[name] = RoundedLinear(layer, form, round_weight(layer.weight, form))
    return found


@contextmanager
def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model with these layers in the place of its own, which are put back."""
    own = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        yield
    finally:
        for name, layer in own.items():
            model.set_submodule(name, layer)
