"""Comparisons whose failures name the worst element, both values, the tolerance and why it is that."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
SMALLEST_SCALE = 2.0**-126
FLOAT32_ERROR = 2e-5  # relative: what sums of some thousand float32 may lose, and fast exponentials on a GPU


def assert_close(actual: Tensor, expected: Tensor, tolerance: Tensor | float, *, what: str, why: str) -> None:
    """Element by element; NaN where and only where NaN is expected, infinities equal."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    assert actual.shape == expected.shape, (
        f"{what}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    )
    tolerances = torch.as_tensor(tolerance, dtype=torch.float64).expand(expected.shape)
    distances = (actual - expected).abs()
    right = (actual == expected) | (actual.isnan() & expected.isnan()) | (distances <= tolerances)
    if right.all():
        return
    excess = (distances / tolerances.clamp_min(1e-300)).masked_fill(right, -1).nan_to_num(nan=torch.inf)
    worst = int(excess.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape)]
    raise AssertionError(
        f"{what}{place} is {actual.flatten()[worst]:.9g}, expected {expected.flatten()[worst]:.9g} "
        f"to within {tolerances.flatten()[worst]:.3g} ({why}); so are {int((~right).sum())} of {right.numel()}"
    )


def assert_quantized(quantized: Tensor, scales: Tensor, expected: Tensor) -> None:
    """Rows of `expected`, [rows, size] in float64, quantised by a scale each, [rows, 1]."""
    largest = LARGEST[quantized.dtype]
    numbers = expected.isfinite().all(-1, keepdim=True)
    expected = expected.masked_fill(~numbers, torch.nan)
    exact = (expected.abs().amax(-1, keepdim=True) / largest).clamp_min(SMALLEST_SCALE)
    # Below the smallest normal float32 numbers lose digits.
    assert_close(
        scales,
        exact,
        exact * FLOAT32_ERROR + 2.0**-149,
        what="scales",
        why="float32; NaN for a row with an infinity or NaN, else its largest magnitude by the type's",
    )
    values = quantized.double().cpu()
    no_numbers = (
        torch.zeros_like(values) if quantized.dtype == torch.int8 else torch.full_like(values, torch.nan)
    )
    scaled = torch.where(numbers, expected / exact, no_numbers)
    assert_close(
        values,
        scaled,
        half_step(scaled, quantized.dtype) + scaled.abs() * FLOAT32_ERROR,
        what="quantized",
        why="half a step of the type there: it is rounded to the nearest",
    )


def half_step(values: Tensor, quant_dtype: torch.dtype) -> Tensor:
    """Half the distance of the type's neighbouring numbers around each value."""
    if quant_dtype == torch.int8:
        return torch.full_like(values, 0.5)
    exponents = torch.floor(torch.log2(values.abs().clamp_min(2.0**-6)))  # below 2^-6 the steps stay 2^-9
    return torch.exp2(exponents - 3) / 2
