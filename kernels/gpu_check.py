"""`make gpu-check`: what only a GPU can show of the kernels, in one command.

Builds the binary, runs the tests marked `gpu`, measures each op against what would run without it, writes
tests/benchmarks/results/kernels.json, and prints a short table. Needs PyTorch for CUDA, nvcc and pytest, nothing else.
Where there is vLLM, its own ops are measured too, and then vLLM as a whole with the kernels and without
(tests/benchmarks/kernels_in_vllm.py).

Exit codes: 0 done, 1 a test failed (nothing is measured then) or vLLM with the kernels did, 2 the kernels cannot be
built, 3 there is no GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from docmill.kernels.gpu_cases import cases, version_of

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tests/benchmarks/results/kernels.json"
IN_VLLM = ROOT / "tests/benchmarks/kernels_in_vllm.py"
IN_TABLE = (16, 1024, 8192)
WANTED_OF_COPY_RATE = 0.85  # of ops that only move memory, from 1,024 tokens on


def main() -> int:
    """Everything; see the exit codes above."""
    if not torch.cuda.is_available():
        print(
            "gpu-check: PyTorch finds no NVIDIA GPU here; nothing was built, tested or measured",
            file=sys.stderr,
        )
        return 3
    if subprocess.run([sys.executable, "-P", "-m", "docmill.kernels.build"]).returncode == 2:
        return 2
    if subprocess.run(test_command()).returncode != 0:
        print("gpu-check: the tests failed; nothing was measured", file=sys.stderr)
        return 1
    report(measure())
    if version_of("vllm") is None:
        print("\nno vLLM here: what the kernels change in it as a whole was not measured")
        return 0
    print()
    return int(subprocess.run([sys.executable, "-P", str(IN_VLLM)]).returncode != 0)


def test_command() -> list[str]:
    """pytest without the project's options, which want plugins that a bare machine lacks."""
    options = ["-o", "addopts=", "-o", "filterwarnings=", "--import-mode=importlib", "-m", "gpu", "-q"]
    return [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "--rootdir",
        str(ROOT),
        *options,
        str(ROOT / "tests/kernels"),
    ]


def measure() -> dict[str, Any]:
    """Microseconds of each way of each case, and the rate that the op's bytes give."""
    copy_rate = copy_gb_per_second()
    rows: list[dict[str, Any]] = []
    for case in cases():
        times = {name: round(microseconds(way), 2) for name, way in case.ways.items()}
        rate = case.num_bytes / times["docmill"] / 1e3
        rows.append(
            {
                "op": case.op,
                "model": case.model,
                "num_tokens": case.num_tokens,
                "num_bytes": case.num_bytes,
                "microseconds": times,
                "gb_per_second": round(rate, 1),
                "of_copy_rate": round(rate / copy_rate, 3),
            }
        )
    return {
        "benchmark": "kernels",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "vllm": version_of("vllm")},
        "copy_gb_per_second": round(copy_rate, 1),
        "met": all(row["of_copy_rate"] >= WANTED_OF_COPY_RATE for row in rows if _is_large_and_streams(row)),
        "rows": rows,
    }


def copy_gb_per_second() -> float:
    """What a copy of 1 GiB reads and writes: the most that an op which only moves memory can reach."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    return 2 * source.numel() / microseconds(partial(torch.empty_like(source).copy_, source)) / 1e3


def microseconds(way: Callable[[], Any]) -> float:
    """Median, with the L2 cache emptied before each call; the GPU is kept busy meanwhile, so launches cost nothing."""
    from triton.testing import do_bench  # comes with PyTorch for CUDA

    return 1e3 * float(do_bench(way, warmup=10, rep=40, return_mode="median"))


def report(result: Mapping[str, Any]) -> None:
    """Into the JSON file, and as a table: microseconds, and the share of a plain copy's rate."""
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{result['gpu']}, a copy moves {result['copy_gb_per_second']} GB/s; microseconds:")
    print(f"{'op':22} {'model':>5} {'tokens':>6} {'ours':>9} {'of copy':>7}  others (times as long)")
    for row in result["rows"]:
        if row["num_tokens"] not in IN_TABLE:
            continue
        ours = row["microseconds"]["docmill"]
        others = ", ".join(
            f"{name} {time} ({time / ours:.2f}x)"
            for name, time in row["microseconds"].items()
            if name != "docmill"
        )
        share = f"{row['of_copy_rate']:.0%}"
        print(f"{row['op']:22} {row['model']:>5} {row['num_tokens']:>6} {ours:>9} {share:>7}  {others}")


def _is_large_and_streams(row: Mapping[str, Any]) -> bool:
    return row["num_tokens"] >= 1024 and row["op"].startswith(("rms_norm_quant", "silu_mul_quant"))


if __name__ == "__main__":
    os.chdir(ROOT)  # build/ is made there
    sys.exit(main())
