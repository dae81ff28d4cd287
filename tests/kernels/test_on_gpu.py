"""What only a GPU shows of the kernels: beside their twins and vLLM's own ops on the same card, and watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import normal
from torch import Tensor

from docmill.kernels import label_scores as label_scores_op
from docmill.kernels import min_hash as min_hash_op
from docmill.kernels import rms_norm_quant as rms_norm_quant_op
from docmill.kernels import silu_mul_quant as silu_mul_quant_op
from docmill.kernels._load import implementation

pytestmark = pytest.mark.gpu

FP8 = torch.float8_e4m3fn
EPSILON = 1e-6
BF16_STEP = 2.0**-7  # vLLM rounds to bf16 in between


@pytest.fixture(autouse=True)
def _kernels_serve() -> None:
    """Or a twin would be compared with itself."""
    assert implementation().name == "cuda", implementation().reason


def assert_alike(
    ours: tuple[Tensor, Tensor],
    theirs: tuple[Tensor, Tensor],
    *,
    most_differing: float,
    scale_tolerance: float = 1e-5,
) -> None:
    """Scales to a tolerance; no more than a share of the values may be the next one, and none further away."""
    torch.testing.assert_close(ours[1].flatten(), theirs[1].flatten(), rtol=scale_tolerance, atol=1e-30)
    dequantised = [values.float() * scales.float().view(-1, 1) for values, scales in (ours, theirs)]
    largest = dequantised[1].abs().amax(-1, keepdim=True)
    step = largest * (1 / 14 if ours[0].dtype == FP8 else 1 / 127)  # of FP8 at its largest: 32 of 448
    distance = (dequantised[0] - dequantised[1]).abs()
    assert (distance <= step * 1.01 + largest * scale_tolerance).all(), "more than a step"
    share = (ours[0].float() != theirs[0].float()).float().mean().item()
    assert share <= most_differing, f"{share:.2%} of the values differ"


@pytest.mark.parametrize("quant_dtype", [FP8, torch.int8])
@pytest.mark.parametrize("hidden", [769, 1024, 5120])
def test_rms_norm_quant_is_its_twin(hidden: int, quant_dtype: torch.dtype) -> None:
    x, old = (normal(64, hidden, dtype=torch.bfloat16, device="cuda", seed=seed) for seed in (1, 2))
    weight = normal(hidden, dtype=torch.bfloat16, device="cuda", seed=3)
    ours = rms_norm_quant_op.rms_norm_quant(x, weight, EPSILON, residual=old.clone(), quant_dtype=quant_dtype)
    twin = rms_norm_quant_op._native(x, weight, old.clone(), EPSILON, quant_dtype)
    assert_alike(ours, twin, most_differing=0.002)


@pytest.mark.parametrize("quant_dtype", [FP8, torch.int8])
@pytest.mark.parametrize("width", [769, 3072, 25600])
def test_silu_mul_quant_is_its_twin(width: int, quant_dtype: torch.dtype) -> None:
    gate_up = normal(64, 2 * width, dtype=torch.bfloat16, device="cuda")
    ours = silu_mul_quant_op.silu_mul_quant(gate_up, quant_dtype=quant_dtype)
    assert_alike(ours, silu_mul_quant_op._native(gate_up, 0, quant_dtype), most_differing=0.002)


def test_label_scores_is_its_twin() -> None:
    states = normal(16, 1024, dtype=torch.bfloat16, device="cuda")
    head = normal(5000, 1024, dtype=torch.bfloat16, device="cuda", seed=2)
    ids = torch.randint(0, 5000, (160,), device="cuda")
    offsets = torch.arange(17, device="cuda") * 10
    ours, best = label_scores_op.label_scores(states, head, ids, offsets)
    twins, twins_best = label_scores_op._native(states, head, ids, offsets)
    torch.testing.assert_close(ours, twins, rtol=1e-4, atol=1e-3)
    assert torch.equal(best, twins_best)


def test_min_hash_is_its_twin() -> None:
    tokens = torch.randint(0, 150_000, (10_000,), device="cuda")
    offsets = torch.arange(11, device="cuda") * 1000
    assert torch.equal(min_hash_op.min_hash(tokens, offsets), min_hash_op._native(tokens, offsets, 128, 5, 0))


@pytest.fixture
def vllm_ops() -> Any:
    return pytest.importorskip("vllm._custom_ops", reason="there is no vLLM on this machine")


@pytest.mark.parametrize("hidden", [1024, 5120])
def test_rms_norm_quant_is_vllms_own_op(hidden: int, vllm_ops: Any) -> None:
    """Which rounds the normalised value to bf16 before it quantises it, so some values go to the next one."""
    x, old = (normal(64, hidden, dtype=torch.bfloat16, device="cuda", seed=seed) for seed in (1, 2))
    weight = normal(hidden, dtype=torch.bfloat16, device="cuda", seed=3)
    residual, their_residual = old.clone(), old.clone()
    ours = rms_norm_quant_op.rms_norm_quant(x, weight, EPSILON, residual=residual)
    theirs = vllm_ops.rms_norm_dynamic_per_token_quant(x, weight, EPSILON, FP8, None, their_residual)
    assert_alike(ours, theirs, most_differing=0.05, scale_tolerance=BF16_STEP)
    assert torch.equal(residual, their_residual)


@pytest.mark.parametrize("width", [3072, 12288])
def test_silu_mul_quant_is_vllms_two_ops(width: int, vllm_ops: Any) -> None:
    """Which store the product in bf16 between them."""
    gate_up = normal(64, 2 * width, dtype=torch.bfloat16, device="cuda")
    activated = gate_up.new_empty(64, width)
    torch.ops._C.silu_and_mul(activated, gate_up)
    theirs = vllm_ops.scaled_fp8_quant(activated, use_per_token_if_dynamic=True)
    ours = silu_mul_quant_op.silu_mul_quant(gate_up)
    assert_alike(ours, theirs, most_differing=0.08, scale_tolerance=BF16_STEP)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("there is no compute-sanitizer on this machine")
    # Each tensor by itself: inside of the blocks that PyTorch keeps, a wrong address would be a right one.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    script = str(Path(__file__).with_name("every_op.py"))
    # Only our kernels: what PyTorch's own do with memory is not ours to answer for.
    watched = ["--tool", tool, "--error-exitcode", "9", "--kernel-regex", "kns=docmill"]
    result = subprocess.run(
        [sanitizer, *watched, sys.executable, "-P", script], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert "every kernel ran" in result.stdout
