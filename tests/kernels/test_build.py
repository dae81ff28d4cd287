"""The kernels compile here for every architecture, and the binary is what it is said to be; no GPU is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers.ci_skip import ci_skip

from docmill.kernels import build
from docmill.kernels.build import ARCHITECTURES, Object
from docmill.kernels.ptxas_report import Kernel, find_cuobjdump, table

ROOT = Path(__file__).parents[2]
VECTORISED = {"rms_norm_quant_rows", "silu_mul_quant_rows", "silu_mul_quant_groups"}
ANY_SIZE = {"rms_norm_quant_any", "silu_mul_quant_any"}
OTHERS = {"label_scores_rows", "min_hash_sequences"}


@pytest.fixture(scope="module")
def kernels(compiled: list[Object]) -> list[Kernel]:
    return [kernel for built in compiled for kernel in built.kernels()]


@pytest.fixture(scope="module")
def binary(compiled: list[Object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.link(compiled, tmp_path_factory.mktemp("binary") / "_C.so")


def test_every_kernel_is_there_for_every_architecture(kernels: list[Kernel]) -> None:
    for arch in ARCHITECTURES:
        assert {
            kernel.template for kernel in kernels if kernel.arch == arch
        } == VECTORISED | ANY_SIZE | OTHERS


def test_no_kernel_spills_registers(kernels: list[Kernel]) -> None:
    assert [kernel for kernel in kernels if kernel.spill_bytes] == []


def test_blocks_of_1024_threads_have_the_registers_they_need(kernels: list[Kernel]) -> None:
    """65,536 registers a multiprocessor: more than 64 a thread, and the launch would fail."""
    large = [kernel for kernel in kernels if kernel.name.endswith(", 4>")]
    assert large
    assert [kernel for kernel in large if kernel.registers > 64] == []


def test_hot_kernels_load_16_bytes_at_a_time(kernels: list[Kernel]) -> None:
    if find_cuobjdump() is None:
        ci_skip("there is no cuobjdump; CUDA's toolkit and nvidia-cuda-cuobjdump have it")
    for kernel in kernels:
        if kernel.template in VECTORISED or kernel.name.endswith(", true>"):
            assert kernel.wide_global_loads, kernel
        if kernel.template == "min_hash_sequences":
            assert kernel.wide_shared_loads, kernel


def test_the_readmes_table_is_of_these_sources(kernels: list[Kernel]) -> None:
    readme = (ROOT / "kernels/README.md").read_text()
    version = subprocess.run(
        [str(build.find_nvcc()), "--version"], capture_output=True, text=True, check=True
    ).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", version)
    assert release
    if f"nvcc {release[1]}" not in readme or find_cuobjdump() is None:
        pytest.skip("the table is another compiler's, or there is no cuobjdump")
    assert table(kernels) in readme, "make it anew: python -m docmill.kernels.build --check --table"


def test_the_binary_needs_only_the_stable_part_of_libtorch(binary: Path) -> None:
    command = ["nm", "--dynamic", "--undefined-only", "--demangle", binary]
    symbols = {
        line.split()[-1].partition("@")[0]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    }
    assert {name for name in symbols if re.search(r"\b(c10|at|torch)::", name)} == set()
    assert {name for name in symbols if name.startswith(("aoti_torch", "torch_"))} >= {"torch_library_impl"}


def test_the_binary_names_no_path_of_this_machine(binary: Path) -> None:
    content = binary.read_bytes()
    assert str(ROOT).encode() not in content
    assert str(Path.home()).encode() + b"/" not in content


CALLS = """
import json, sys
import torch
from torch._C import DispatchKey, DispatchKeySet
from docmill.kernels import label_scores, min_hash, rms_norm_quant, silu_mul_quant

torch.ops.load_library(sys.argv[1])
x, rows = torch.ones(2, 8), torch.ones(5, 8)
ids, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3])
int8 = torch.int8
calls = {
    "rms_norm_quant": [
        (x.double(), x[0], None, 1e-6, int8), (x, x[0].half(), None, 1e-6, int8), (x, x[0], None, 1e-6, torch.half),
        (x[0], x[0], None, 1e-6, int8), (x.t().contiguous().t(), x[0], None, 1e-6, int8),
        (x, torch.ones(9), None, 1e-6, int8), (x, x[0], torch.ones(3, 8), 1e-6, int8),
        (x, x[0], x[:1].expand(2, 8), 1e-6, int8), (x, x[0], None, 0.0, int8), (x, x[0], x.clone(), 1e-6, int8),
    ],
    "silu_mul_quant": [(x[:, :7], 0, int8), (x, -1, int8), (x, 4, torch.float8_e4m3fn)],
    "label_scores": [
        (x, rows.half(), ids, offsets), (x, rows, ids.int(), offsets), (x, rows, ids, offsets[:2]),
        (x, rows[:, :7], ids, offsets), (x, rows, ids, offsets),
    ],
    "min_hash": [
        (ids.short(), offsets, 8, 5, 0), (ids, offsets[:0], 8, 5, 0), (ids, offsets, 0, 5, 0), (ids, offsets, 8, 0, 0),
        (ids, offsets, 8, 5, 0),
    ],
}
messages = []
for name, arguments_of_calls in calls.items():
    for arguments in arguments_of_calls:
        try:
            getattr(torch.ops.docmill, name).default.redispatch(DispatchKeySet(DispatchKey.CUDA), *arguments)
        except RuntimeError as error:
            messages.append(str(error).splitlines()[0])
print(json.dumps(messages))
"""


def test_the_binarys_checks_name_what_does_not_fit(binary: Path) -> None:
    """It loads without CUDA. Called with CPU tensors, what is right but for the device gets to the device's check."""
    result = subprocess.run(
        [sys.executable, "-c", CALLS, binary], capture_output=True, text=True, cwd=binary.parent, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [
        "rms_norm_quant: x must be float32, float16 or bfloat16, it is Double",
        "rms_norm_quant: weight must be Float, it is Half",
        "rms_norm_quant: quant_dtype must be float8_e4m3fn or int8, it is Half",
        "rms_norm_quant: x must have 2 dimension(s), it has 1",
        "rms_norm_quant: the elements of a row of x must be adjacent, their stride is 2",
        "rms_norm_quant: weight must have size 8 in dimension 0, it has 9",
        "rms_norm_quant: residual must have size 2 in dimension 0, it has 3",
        "rms_norm_quant: rows of residual must not overlap",
        "rms_norm_quant: epsilon must be positive, it is 0",
        "rms_norm_quant: x must be on a CUDA device",
        "silu_mul_quant: a row of gate_up must be as many gates as ups, its size is 7",
        "silu_mul_quant: group_size must be 0 (a scale a token) or more, it is -1",
        "silu_mul_quant: gate_up must be on a CUDA device",
        "label_scores: lm_head must be Float, it is Half",
        "label_scores: label_token_ids must be Long, it is Int",
        "label_scores: label_offsets must have size 3 in dimension 0, it has 2",
        "label_scores: lm_head must have size 8 in dimension 1, it has 7",
        "label_scores: hidden_states must be on a CUDA device",
        "min_hash: token_ids must be int32 or int64, it is Short",
        "min_hash: offsets must have one number more than there are sequences, it is empty",
        "min_hash: num_hashes must be 1 to 65535, it is 0",
        "min_hash: shingle_size must be at least 1, it is 0",
        "min_hash: token_ids must be on a CUDA device",
    ]
