"""Runs each kernel at sizes of every kind, for a tool that watches: `compute-sanitizer python every_op.py`.

All inputs are made on the CPU and copied: of memory that kernels of others have written, a tool that watches only ours
does not know that it was.
"""

from __future__ import annotations

import torch

from docmill.kernels._load import binary_path, kernel_calls
from docmill.kernels.label_scores import label_scores
from docmill.kernels.min_hash import min_hash
from docmill.kernels.rms_norm_quant import rms_norm_quant
from docmill.kernels.silu_mul_quant import silu_mul_quant

SIZES = (7, 64, 769, 4096, 40960)  # of odd kernels, two and four pieces a thread, rows too long for registers
OPS = ("rms_norm_quant", "silu_mul_quant", "label_scores", "min_hash")


def main() -> None:
    for size in SIZES:
        for dtype in (torch.bfloat16, torch.float32):
            rows = torch.randn(3, size, dtype=dtype)
            x, weight, gate_up = (part.cuda() for part in (rows, rows[0], rows.repeat(1, 2)))
            for quant_dtype in (torch.float8_e4m3fn, torch.int8):
                rms_norm_quant(x, weight, 1e-6, residual=rows.cuda(), quant_dtype=quant_dtype)
                for group_size in (0, 128, 5):
                    silu_mul_quant(gate_up, group_size=group_size, quant_dtype=quant_dtype)
            label_scores(x, x, torch.tensor([0, 2, 1, 0]).cuda(), torch.tensor([0, 3, 3, 4]).cuda())
        tokens = torch.arange(2 * size)
        min_hash(tokens.cuda(), torch.tensor([0, size, size, 2 * size]).cuda(), num_hashes=130)
        min_hash(tokens.int().cuda(), torch.tensor([0, 2 * size]).cuda())
    torch.cuda.synchronize()
    calls = {op: kernel_calls(op, binary_path()) for op in OPS}
    assert all(calls.values()), f"not all kernels ran: {calls}"
    print("every kernel ran")


if __name__ == "__main__":
    main()
