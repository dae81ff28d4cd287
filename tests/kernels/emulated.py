"""The kernels themselves on a CPU: csrc/ compiled with g++ and emulator/, called in the twins' place."""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._C import DispatchKey, DispatchKeySet

from docmill.kernels import build, label_scores, min_hash, rms_norm_quant, silu_mul_quant
from docmill.kernels._load import source_files

EMULATOR = Path(__file__).with_name("emulator")
OPS = [
    module.__name__.rpartition(".")[2] for module in (label_scores, min_hash, rms_norm_quant, silu_mul_quant)
]
LAUNCH = re.compile(r"(\w+<[\w ,]+>)\s*<<<(\w+), ([^;]+?), 0, stream>>>\(([^;]*?)\);")
FLAGS = ("-std=c++20", "-O1", "-shared", "-cudart=none", "-Xlinker", "-Bsymbolic")


def compile_emulated(folder: Path) -> Path:
    """The binary; the kernels' sources are unchanged but for the launches. Half a minute if something has changed."""
    kernels = {path.name: path.read_text() for path in source_files(".cu")}
    emulated = {
        name: LAUNCH.sub(r"emulator::launch(\2, \3, [&] { \1(\4); });", text)
        for name, text in kernels.items()
    }
    assert not any("<<<" in text for text in emulated.values()), "a launch that is written otherwise"
    others = [*source_files(".cpp", ".cuh", ".h"), *sorted(EMULATOR.iterdir())]
    told = "\0".join([torch.__version__, *FLAGS, *emulated.values(), *(path.read_text() for path in others)])
    target = folder / f"emulated.{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "emulated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of the suite want it: the first makes it
        if not target.exists():
            _compile(emulated, target)
    return target


def _compile(kernels: dict[str, str], target: Path) -> None:
    sources = []
    for name, text in kernels.items():
        sources.append(target.with_name(f"emulated_{name}.cpp"))
        sources[-1].write_text(text)
    torch_folder = Path(torch.__file__).parent
    command = [
        # nvcc calls g++ for these, and knows where CUDA's headers are.
        *(str(build.find_nvcc()), *FLAGS, "-Xcompiler", f"-w,-fPIC,-include,{EMULATOR / 'cuda_on_cpu.h'}"),
        *("-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={build.TORCH_TARGET}", f"-I{build.SOURCES}"),
        *("-isystem", str(torch_folder / "include")),
        *map(str, [*sources, build.SOURCES / "bindings.cpp", EMULATOR / "runtime.cpp"]),
        *(f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-o", str(target)),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout


@contextmanager
def kernels_in_the_place_of_twins(binary: Path) -> Iterator[None]:
    """While it lasts, CPU tensors go to the emulated kernels, which have registered for CUDA tensors."""
    if str(binary) not in torch.ops.loaded_libraries:
        torch.ops.load_library(str(binary))
    library = torch.library.Library("docmill", "IMPL")
    for name in OPS:
        op = getattr(torch.ops.docmill, name).default
        library.impl(
            name, lambda *arguments, op=op: op.redispatch(DispatchKeySet(DispatchKey.CUDA), *arguments), "CPU"
        )
    yield
    library._destroy()
