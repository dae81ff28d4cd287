"""Runs each kernel once at sizes of every kind, for a tool that watches: `compute-sanitizer python every_op.py`."""

from __future__ import annotations

import torch

from docmill.kernels.label_scores import label_scores
from docmill.kernels.min_hash import min_hash
from docmill.kernels.rms_norm_quant import rms_norm_quant
from docmill.kernels.silu_mul_quant import silu_mul_quant

SIZES = (7, 64, 769, 4096, 40960)  # of odd kernels, two and four pieces a thread, rows too long for registers


def main() -> None:
    for size in SIZES:
        for dtype in (torch.bfloat16, torch.float32):
            x = torch.randn(3, size, dtype=dtype, device="cuda")
            for quant_dtype in (torch.float8_e4m3fn, torch.int8):
                rms_norm_quant(x, x[0], 1e-6, residual=x.clone(), quant_dtype=quant_dtype)
                for group_size in (0, 128, 5):
                    silu_mul_quant(x.repeat(1, 2), group_size=group_size, quant_dtype=quant_dtype)
            ids = torch.tensor([0, 2, 1, 0], device="cuda")
            label_scores(x, x, ids, torch.tensor([0, 3, 3, 4], device="cuda"))
        tokens = torch.arange(2 * size, device="cuda")
        min_hash(tokens, torch.tensor([0, size, size, 2 * size], device="cuda"), num_hashes=130)
        min_hash(tokens.int(), torch.tensor([0, 2 * size], device="cuda"))
    torch.cuda.synchronize()
    print("every op ran")


if __name__ == "__main__":
    main()
