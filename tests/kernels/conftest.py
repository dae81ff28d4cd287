"""`reference`, `cases` and `compare` by their short names, the devices, and the kernels compiled once for all tests.

Nothing here needs more than pytest and torch, so that the tests of the kernels run on a bare GPU machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from docmill.kernels.build import Object

sys.path.append(str(Path(__file__).parent))

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each test with it runs twice: on the CPU with the native twin, and on a GPU, if there is one, with the kernel."""
    if request.param == "cuda":
        from docmill.kernels._load import implementation

        assert implementation().name == "cuda", implementation().reason
    return str(request.param)


@pytest.fixture(scope="session")
def compiled() -> list[Object]:
    """All of csrc/ for all architectures: a minute, or no time if it has not changed since the last run."""
    from servers.ci_skip import ci_skip

    from docmill.kernels.build import compile_sources, find_nvcc

    if find_nvcc() is None:
        ci_skip("there is no nvcc; CUDA 13 has it")
    return compile_sources(folder=ROOT / "build/kernels")
