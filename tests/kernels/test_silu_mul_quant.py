"""silu_mul_quant against float64: on the CPU the native twin, on a GPU the kernel."""

from __future__ import annotations

import pytest
import reference
import torch
from cases import DTYPES, EVEN_SIZES, LAYOUTS, ODD_SIZES, QUANT_DTYPES, extreme_rows, laid_out, normal
from compare import assert_quantized
from torch import Tensor

from docmill.kernels.silu_mul_quant import silu_mul_quant

NUM_TOKENS = 3


def assert_groups_quantized(quantized: Tensor, scales: Tensor, expected: Tensor, group_size: int) -> None:
    """Group by group, each as a row of its own."""
    assert quantized.shape == expected.shape
    starts = range(0, expected.size(1), group_size)
    assert scales.shape == (expected.size(0), len(starts))
    for column, start in enumerate(starts):
        part = slice(start, start + group_size)
        assert_quantized(quantized[:, part], scales[:, column, None], expected[:, part])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant_dtype", QUANT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [*ODD_SIZES, *EVEN_SIZES])
def test_a_token_is_activated_and_rounded_once(
    width: int, dtype: torch.dtype, quant_dtype: torch.dtype, layout: str, device: str
) -> None:
    gate_up = normal(NUM_TOKENS, 2 * width, dtype=dtype, device=device)
    view = laid_out(gate_up, layout)
    quantized, scales = silu_mul_quant(view, quant_dtype=quant_dtype)
    assert_quantized(quantized, scales, reference.silu_mul(gate_up))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("width", "group_size"),
    [
        (1024, 128),  # whole groups, as weights quantised in blocks want them
        (5120, 64),
        (2560, 16),
        (4104, 128),  # the last group is of 8
        (769, 128),  # the last is of 1, and no row but the first is aligned
        (83, 7),
        (1024, 48),  # no power of two
        (7, 128),  # one group that is not full
        (5, 1),
    ],
)
def test_each_group_has_its_own_scale(
    width: int, group_size: int, dtype: torch.dtype, layout: str, device: str
) -> None:
    gate_up = normal(NUM_TOKENS, 2 * width, dtype=dtype, device=device)
    view = laid_out(gate_up, layout)
    quantized, scales = silu_mul_quant(view, group_size=group_size)
    assert_groups_quantized(quantized, scales, reference.silu_mul(gate_up), group_size)


@pytest.mark.parametrize("group_size", [0, 128])
@pytest.mark.parametrize("quant_dtype", QUANT_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_gates_and_ups_and_their_neighbours(
    dtype: torch.dtype, quant_dtype: torch.dtype, group_size: int, device: str
) -> None:
    """Each kind of row as gates and as ups, and once with itself. All in one tensor: none shows in another."""
    width = 256
    rows = extreme_rows(width, dtype, device)
    ordinary = rows["ordinary numbers"]
    pairs = [pair for row in rows.values() for pair in ((row, ordinary), (ordinary, row), (row, row))]
    gate_up = torch.stack([torch.cat(pair) for pair in pairs])
    expected = reference.silu_mul(gate_up)
    assert expected.isfinite().all(-1).any()
    assert not expected.isfinite().all()
    quantized, scales = silu_mul_quant(gate_up, quant_dtype=quant_dtype, group_size=group_size)
    assert_groups_quantized(quantized, scales, expected, group_size or width)


@pytest.mark.parametrize("group_size", [0, 16])
def test_no_tokens_are_no_error(group_size: int, device: str) -> None:
    quantized, scales = silu_mul_quant(torch.empty(0, 128, device=device), group_size=group_size)
    assert (quantized.shape, quantized.dtype) == ((0, 64), torch.float8_e4m3fn)
    assert (scales.shape, scales.dtype) == ((0, 64 // group_size if group_size else 1), torch.float32)


GATE_UP = torch.ones(2, 8)


@pytest.mark.parametrize(
    ("gate_up", "options", "message"),
    [
        (GATE_UP.double(), {}, "gate_up must be float32, float16 or bfloat16, it is float64"),
        (GATE_UP, {"quant_dtype": torch.float8_e5m2}, "quant_dtype must be float8_e4m3fn or int8"),
        (GATE_UP[0], {}, "gate_up must have 2 dimension"),
        (
            GATE_UP.t().contiguous().t(),
            {},
            "elements of a row of gate_up must be adjacent, their stride is 2",
        ),
        (GATE_UP[:, :7], {}, "as many gates as ups, its size is 7"),
        (GATE_UP[:, :0], {}, "as many gates as ups, its size is 0"),
        (GATE_UP, {"group_size": -1}, "group_size must be 0 .a scale a token. or more, it is -1"),
    ],
)
def test_what_does_not_fit_is_named(gate_up: Tensor, options: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        silu_mul_quant(gate_up, **options)


@pytest.mark.parametrize("group_size", [0, 16])
def test_the_op_is_what_its_schema_says(group_size: int, device: str) -> None:
    gate_up = normal(3, 80, dtype=torch.bfloat16, device=device)
    torch.library.opcheck(torch.ops.docmill.silu_mul_quant.default, (gate_up, group_size, torch.int8))


class Mlp(torch.nn.Module):
    """Between the two GEMMs of an MLP."""

    def forward(self, gate_up: Tensor) -> tuple[Tensor, Tensor]:
        quantized, scales = silu_mul_quant(gate_up * 2)
        blocks, block_scales = silu_mul_quant(gate_up, group_size=16)
        return quantized.float() * scales, blocks.float() * block_scales.repeat_interleave(16, dim=1)


def test_a_compiled_module_gives_the_same(device: str) -> None:
    compiled = torch.compile(Mlp(), backend="aot_eager", fullgraph=True, dynamic=True)
    for num_tokens in (3, 5):
        gate_up = normal(num_tokens, 128, dtype=torch.bfloat16, device=device)
        for actual, expected in zip(compiled(gate_up), Mlp()(gate_up), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("group_size", [0, 128])
def test_a_graph_replays_it(group_size: int) -> None:
    gate_up = normal(4, 8192, dtype=torch.bfloat16, device="cuda")
    silu_mul_quant(gate_up, group_size=group_size)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        quantized, scales = silu_mul_quant(gate_up, group_size=group_size)
    gate_up.copy_(normal(4, 8192, dtype=torch.bfloat16, device="cuda", seed=2))
    graph.replay()
    torch.cuda.synchronize()
    assert_groups_quantized(quantized, scales, reference.silu_mul(gate_up), group_size or 4096)
