"""rms_norm_quant against float64: on the CPU the native twin, on a GPU the kernel."""

from __future__ import annotations

import pytest
import reference
import torch
from cases import (
    DTYPES,
    EVEN_SIZES,
    LAYOUTS,
    ODD_SIZES,
    QUANT_DTYPES,
    extreme_rows,
    laid_out,
    normal,
    unused_memory,
)
from compare import assert_close, assert_quantized
from torch import Tensor

from docmill.kernels.rms_norm_quant import rms_norm_quant

EPSILON = 1e-6
NUM_TOKENS = 3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant_dtype", QUANT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [*ODD_SIZES, *EVEN_SIZES])
def test_a_token_is_normalised_and_rounded_once(
    hidden: int, dtype: torch.dtype, quant_dtype: torch.dtype, layout: str, device: str
) -> None:
    x = normal(NUM_TOKENS, hidden, dtype=dtype, device=device)
    weight = normal(hidden, dtype=dtype, device=device, seed=2)
    view = laid_out(x, layout)
    assert_quantized(
        *rms_norm_quant(view, weight, EPSILON, quant_dtype=quant_dtype),
        reference.rms_norm(x, weight, EPSILON),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [*ODD_SIZES, *EVEN_SIZES])
def test_the_residual_gets_the_sum_and_the_sum_as_stored_is_normalised(
    hidden: int, dtype: torch.dtype, layout: str, device: str
) -> None:
    x, old = (normal(NUM_TOKENS, hidden, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    weight = normal(hidden, dtype=dtype, device=device, seed=3)
    x_view, residual = laid_out(x, layout), laid_out(old, layout, gaps=3)
    quantized, scales = rms_norm_quant(x_view, weight, EPSILON, residual=residual)
    total = (x.double() + old.double()).to(dtype)
    assert_close(residual, total, 0.0, what="residual", why="a sum of two is rounded once, to the dtype")
    assert_close(x_view, x, 0.0, what="x", why="it is only read")
    assert_quantized(quantized, scales, reference.rms_norm(total, weight, EPSILON))
    assert unused_memory(residual).isnan().all(), "written outside of the rows"


@pytest.mark.parametrize("quant_dtype", QUANT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [7, 1024])
def test_extreme_rows_and_their_neighbours(
    hidden: int, dtype: torch.dtype, quant_dtype: torch.dtype, device: str
) -> None:
    """All in one tensor: what is in one row shows in no other."""
    x = torch.stack([*extreme_rows(hidden, dtype, device).values()])
    weight = normal(hidden, dtype=dtype, device=device, seed=2)
    expected = reference.rms_norm(x, weight, EPSILON)
    assert expected.isnan().any(-1).sum() == (4 if dtype == torch.float16 else 5), "rows without a result"
    assert_quantized(*rms_norm_quant(x, weight, EPSILON, quant_dtype=quant_dtype), expected)


@pytest.mark.parametrize("quant_dtype", QUANT_DTYPES)
def test_rows_of_zeros_are_zeros_with_a_scale_that_has_a_reciprocal(
    quant_dtype: torch.dtype, device: str
) -> None:
    zeros, ones = torch.zeros(2, 64, device=device), torch.ones(64, device=device)
    quantized, scales = rms_norm_quant(zeros, ones, EPSILON, quant_dtype=quant_dtype)
    assert quantized.float().abs().max() == 0
    assert scales.flatten().tolist() == [2.0**-126] * 2


def test_no_tokens_are_no_error(device: str) -> None:
    x, weight = torch.empty(0, 64, device=device), torch.ones(64, device=device)
    quantized, scales = rms_norm_quant(x, weight, EPSILON, residual=x.clone(), quant_dtype=torch.int8)
    assert (quantized.shape, quantized.dtype) == ((0, 64), torch.int8)
    assert (scales.shape, scales.dtype) == ((0, 1), torch.float32)


X, WEIGHT = torch.ones(2, 8), torch.ones(8)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        (X.double(), WEIGHT.double(), {}, "x must be float32, float16 or bfloat16, it is float64"),
        (X, WEIGHT.half(), {}, "weight must be float32, it is float16"),
        (X, WEIGHT, {"quant_dtype": torch.float16}, "quant_dtype must be float8_e4m3fn or int8"),
        (X[0], WEIGHT, {}, "x must have 2 dimension"),
        (X.t().contiguous().t(), WEIGHT, {}, "elements of a row of x must be adjacent, their stride is 2"),
        (X, torch.ones(16)[::2], {}, "weight must be contiguous"),
        (X, torch.ones(9), {}, "weight must have size 8 in dimension 0, it has 9"),
        (X[:, :0], WEIGHT[:0], {}, "x must have at least one element a row"),
        (X, WEIGHT, {"residual": torch.ones(3, 8)}, "residual must have size 2 in dimension 0, it has 3"),
        (X, WEIGHT, {"residual": torch.ones(1, 8).expand(2, 8)}, "rows of residual must not overlap"),
        (X, WEIGHT, {"epsilon": 0.0}, "epsilon must be positive, it is 0.0"),
    ],
)
def test_what_does_not_fit_is_named(x: Tensor, weight: Tensor, options: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        rms_norm_quant(x, weight, **{"epsilon": EPSILON, **options})


@pytest.mark.parametrize("with_residual", [False, True])
def test_the_op_is_what_its_schema_says(with_residual: bool, device: str) -> None:
    x, weight = (normal(*shape, dtype=torch.bfloat16, device=device) for shape in ((3, 64), (64,)))
    residual = x.clone() if with_residual else None
    arguments = (x, weight, residual, EPSILON, torch.float8_e4m3fn)
    torch.library.opcheck(torch.ops.docmill.rms_norm_quant.default, arguments)


class Layer(torch.nn.Module):
    """Before a quantised GEMM in a model: dynamic in tokens, and the residual goes on."""

    def __init__(self, hidden: int, device: str):
        super().__init__()
        self.weight = torch.nn.Parameter(
            normal(hidden, dtype=torch.bfloat16, device=device), requires_grad=False
        )

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, scales = rms_norm_quant(x * 2, self.weight, EPSILON, residual=residual)
        return quantized.float() * scales, scales, residual


def test_a_compiled_module_gives_the_same(device: str) -> None:
    layer = Layer(64, device)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for num_tokens in (3, 5):
        x, old = (normal(num_tokens, 64, dtype=torch.bfloat16, device=device, seed=seed) for seed in (1, 2))
        for actual, expected in zip(compiled(x, old.clone()), layer(x, old.clone()), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_a_graph_replays_it() -> None:
    x, old = (normal(4, 4096, dtype=torch.bfloat16, device="cuda", seed=seed) for seed in (1, 2))
    weight, residual = normal(4096, dtype=torch.bfloat16, device="cuda", seed=3), old.clone()
    rms_norm_quant(x, weight, EPSILON, residual=residual)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        quantized, scales = rms_norm_quant(x, weight, EPSILON, residual=residual)
    residual.copy_(old)
    graph.replay()
    torch.cuda.synchronize()
    assert_quantized(quantized, scales, reference.rms_norm(residual, weight, EPSILON))
    assert_close(
        residual, x.double() + old.double(), residual.double().abs().cpu() / 256, what="residual", why="bf16"
    )
