"""`reference`, `cases` and `compare` by their short names, the devices, and the kernels compiled once for all tests.

Nothing here needs more than pytest and torch, so that the tests of the kernels run on a bare GPU machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from docmill.kernels.build import Object

sys.path.append(str(Path(__file__).parent))

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["native", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test with it runs three times: with the native twin, with the kernel emulated, and with it on a GPU."""
    if request.param == "native":
        yield "cpu"
    elif request.param == "emulated":
        from emulated import kernels_in_the_place_of_twins

        with kernels_in_the_place_of_twins(request.getfixturevalue("emulated_binary")):
            yield "cpu"
    else:
        from docmill.kernels._load import implementation

        assert implementation().name == "cuda", implementation().reason
        yield "cuda"


@pytest.fixture(scope="session")
def emulated_binary() -> Path:
    import torch
    from servers.ci_skip import ci_skip

    from docmill.kernels.build import find_nvcc

    if torch.version.cuda is not None:
        pytest.skip("PyTorch for CUDA: the real kernels may have been loaded into this process")
    if find_nvcc() is None:
        ci_skip("there is no nvcc, and so no CUDA headers; CUDA 13 has them")
    from emulated import compile_emulated

    return compile_emulated(ROOT / "build/kernels")


@pytest.fixture(scope="session")
def compiled() -> list[Object]:
    """All of csrc/ for all architectures: a minute, or no time if it has not changed since the last run."""
    from servers.ci_skip import ci_skip

    from docmill.kernels.build import compile_sources, find_nvcc

    if find_nvcc() is None:
        ci_skip("there is no nvcc; CUDA 13 has it")
    return compile_sources(folder=ROOT / "build/kernels")
