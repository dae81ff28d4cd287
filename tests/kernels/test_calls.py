"""Each op counts how often it has run, so that a report can prove which implementation did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from docmill.kernels._load import binary_path, kernel_calls, num_calls
from docmill.kernels.label_scores import label_scores
from docmill.kernels.min_hash import min_hash
from docmill.kernels.rms_norm_quant import rms_norm_quant
from docmill.kernels.silu_mul_quant import silu_mul_quant


def _int64(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


# For silu_mul_quant all three kernels: a token's scale, groups in lanes of a warp, groups of any size.
CALLS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "rms_norm_quant": ("rms_norm_quant", lambda d: rms_norm_quant(_ones(3, 64, d), _ones(64, d), 1e-6)),
    "rms_norm_quant, odd": ("rms_norm_quant", lambda d: rms_norm_quant(_ones(3, 7, d), _ones(7, d), 1e-6)),
    "silu_mul_quant": ("silu_mul_quant", lambda d: silu_mul_quant(_ones(3, 64, d))),
    "silu_mul_quant, groups": (
        "silu_mul_quant",
        lambda d: silu_mul_quant(_ones(3, 2 * 4096, d), group_size=16),
    ),
    "silu_mul_quant, odd": ("silu_mul_quant", lambda d: silu_mul_quant(_ones(3, 14, d), group_size=3)),
    "label_scores": (
        "label_scores",
        lambda d: label_scores(_ones(2, 8, d), _ones(5, 8, d), _int64(0, 4, 1).to(d), _int64(0, 2, 3).to(d)),
    ),
    "min_hash": (
        "min_hash",
        lambda d: min_hash(_int64(1, 2, 3, 4, 5, 6).to(d), _int64(0, 6).to(d), num_hashes=300),
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_twin_counts_its_calls(case: str) -> None:
    op, call = CALLS[case]
    before = num_calls(op)
    for _ in range(3):
        call("cpu")
    assert num_calls(op) == before + 3


@pytest.mark.parametrize("case", CALLS)
def test_a_kernel_counts_its_launches(case: str, emulated_binary: Path) -> None:
    """Once each, however many blocks a launch has."""
    from emulated import kernels_in_the_place_of_twins

    op, call = CALLS[case]
    with kernels_in_the_place_of_twins(emulated_binary):
        before, native = kernel_calls(op, emulated_binary), num_calls(op)
        for _ in range(3):
            call("cpu")
    assert kernel_calls(op, emulated_binary) == before + 3
    assert num_calls(op) == native, "the twin has served, not the kernel"


def test_the_count_of_an_unknown_op_is_an_error(emulated_binary: Path) -> None:
    torch.ops.load_library(str(emulated_binary))
    with pytest.raises(RuntimeError, match="no_such_op cannot be counted: CUDA error 1"):
        kernel_calls("no_such_op", emulated_binary)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CALLS)
def test_replays_of_a_graph_are_counted(case: str) -> None:
    op, call = CALLS[case]
    if op in ("label_scores", "min_hash"):
        pytest.skip("its inputs come from the CPU, which a graph cannot capture; their own tests replay it")
    call("cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call("cuda")
    before = num_calls(op)
    for _ in range(5):
        graph.replay()
    assert num_calls(op) == before + 5
    assert kernel_calls(op, binary_path()) >= 5


def _ones(*shape_and_device: Any) -> torch.Tensor:
    *shape, device = shape_and_device
    return torch.ones(*shape, device=device)
