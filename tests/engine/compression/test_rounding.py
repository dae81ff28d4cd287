"""Weights and activations in the formats: how far they may be off, and what is stored of them."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from torch import nn

from docmill.engine.compression.formats import FORMATS, Format, bits_per_weight, fits, group_size, scheme_of
from docmill.engine.compression.gptq import fit_weight
from docmill.engine.compression.quantised_checkpoint import stored_tensors
from docmill.engine.compression.rounding import RoundedLinear, round_activations, round_weight, scales_of


@pytest.fixture
def weight() -> torch.Tensor:
    """[64, 192], rows of very different size."""
    torch.manual_seed(0)
    return torch.randn(64, 192) * torch.logspace(-3, 1, 64)[:, None]


def test_int8_weights_are_off_by_half_a_step_within_their_range(weight: torch.Tensor) -> None:
    rounded = round_weight(weight, "int8")
    error = (rounded.real() - weight).abs()
    inside = weight.abs() <= 127 * rounded.scales
    assert inside.float().mean() > 0.98
    assert bool((error <= rounded.scales * 0.5001)[inside].all())
    assert float((error.square().sum() / weight.square().sum()).sqrt()) < 0.009


@pytest.mark.parametrize("form", FORMATS)
def test_a_searched_range_is_never_worse_than_the_full_one(form: Format, weight: torch.Tensor) -> None:
    """And better in 4 bits, where a few far weights would make all the others coarse."""
    args = scheme_of(form, weight.shape[1]).weights
    assert args is not None
    rounded = round_weight(weight, form)
    groups = weight.unflatten(1, (rounded.scales.shape[1], -1))
    scales, points = scales_of(groups.amin(-1), groups.amax(-1), args)
    full = type(rounded)(_nearest(groups, scales, points, form), scales, points, args)
    row_errors = [((one.real() - weight) ** 2).sum(1) for one in (rounded, full)]
    assert bool((row_errors[0] <= row_errors[1] * 1.0001).all())
    if form == "w4a16":
        assert float(row_errors[0].sum()) < 0.97 * float(row_errors[1].sum())


def _nearest(groups: torch.Tensor, scales: torch.Tensor, points: torch.Tensor, form: Format) -> torch.Tensor:
    real = groups / scales[..., None] + points[..., None].float()
    if form == "fp8":
        return real.clamp(-448, 448).flatten(1).to(torch.float8_e4m3fn)
    low, high = (-128, 127) if form == "int8" else (-8, 7)
    return real.round().clamp(low, high).flatten(1).to(torch.int8)


def test_four_bits_use_all_sixteen_values_of_a_lopsided_group() -> None:
    weight = torch.linspace(0, 1, 64).repeat(32, 1)
    rounded = round_weight(weight, "w4a16")
    assert set(rounded.values.unique().tolist()) == set(range(-8, 8))
    assert set(rounded.zero_points.unique().tolist()) == {-8}, "zero is the smallest value"
    assert float((rounded.real() - weight).abs().max()) < 1 / 15


def test_a_token_has_a_scale_of_its_own() -> None:
    """An outlier costs its own token its precision, and no other."""
    torch.manual_seed(1)
    rows = torch.randn(5, 192)
    values, scales = round_activations(rows, "int8")
    loud = rows.clone()
    loud[2, 7] = 1000
    loud_values, loud_scales = round_activations(loud, "int8")
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(values[others], loud_values[others])
    assert torch.equal(scales[others], loud_scales[others])
    assert float(loud_scales[2]) == pytest.approx(1000 / 127)
    assert bool(((values.float() * scales - rows).abs() <= scales / 2 * 1.001).all())


def test_a_rounded_layer_multiplies_eight_bit_numbers(weight: torch.Tensor) -> None:
    """In integers, then scaled: to the last bit what INT8 hardware sums up."""
    layer = nn.Linear(192, 64)
    layer.weight.data = weight
    rounded = round_weight(weight, "int8")
    rows = torch.randn(3, 11, 192)
    values, scales = round_activations(rows, "int8")
    sums = values.long() @ rounded.values.long().t()
    expected = sums.float() * scales * rounded.scales.t() + layer.bias
    assert torch.equal(RoundedLinear(layer, "int8", rounded)(rows), expected)


@pytest.mark.parametrize("form", FORMATS)
def test_a_layer_in_float16_sums_beyond_its_range(form: Format) -> None:
    """Sums of 8-bit products are, where what they stand for is small."""
    layer, rows = nn.Linear(192, 64), torch.rand(3, 11, 192) + 0.5
    layer.weight.data = torch.rand(64, 192) / 100 + 0.01
    rounded = round_weight(layer.weight, form)
    expected = RoundedLinear(layer, form, rounded)(rows)
    found = RoundedLinear(layer.half(), form, rounded)(rows.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_stored_reads_back_as_it_was_rounded(form: Format, weight: torch.Tensor) -> None:
    """By compressed-tensors itself; and it is as small as `bits_per_weight` says."""
    rounded, scheme = round_weight(weight, form), scheme_of(form, 192)
    stored = stored_tensors(rounded, scheme)
    read = BaseCompressor.get_value_from_registry(scheme.format).decompress(stored, scheme)["weight"]
    assert torch.allclose(read.float(), rounded.real(), rtol=2**-7 if form == "w4a16" else 1e-6)
    num_bytes = sum(part.nbytes for name, part in stored.items() if name != "weight_shape")
    assert num_bytes * 8 == bits_per_weight(form, 192) * weight.numel()


def test_four_bits_fitted_to_the_inputs_lose_less_of_the_product() -> None:
    torch.manual_seed(2)
    inputs = torch.randn(2000, 128) @ torch.randn(128, 128)  # correlated, as a model's are
    weight = torch.randn(64, 128)
    losses = [
        float(((fit_weight(weight, "w4a16", products).real() - weight) @ inputs.t()).square().mean())
        for products in (None, inputs.t() @ inputs / len(inputs))
    ]
    assert losses[1] < 0.6 * losses[0]


def test_shapes_that_no_kernel_takes_are_known() -> None:
    assert [group_size(width) for width in (4096, 192, 160)] == [128, 64, 32]
    assert fits("w4a16", 64, 192)
    assert not fits("w4a16", 64, 200)
    assert fits("int8", 64, 208)
    assert not fits("int8", 50, 192)
    with pytest.raises(ValueError, match="multiples of 32; a layer has 200"):
        group_size(200)
