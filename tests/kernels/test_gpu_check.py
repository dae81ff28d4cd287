"""`make gpu-check` where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from docmill.kernels import gpu_check


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main() == 3
    output = capsys.readouterr()
    assert output.err == (
        "gpu-check: PyTorch finds no NVIDIA GPU here; nothing was built, tested or measured\n"
    )
    assert output.out == ""
