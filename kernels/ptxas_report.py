"""What the compiler made of the kernels: registers and spills as ptxas says, 16-byte loads as the machine code has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")
_LOAD = re.compile(r"\b(?:LDG\.E(?:\.\w+)*?|LDS)\.128\b")
_GLOBAL_LOAD = re.compile(r"\bLDG\.E(?:\.\w+)*?\.128\b")


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel on one architecture."""

    symbol: str  # as the linker knows it
    name: str  # as C++ writes it: rms_norm_quant_rows<__nv_bfloat16, Int8, 2>
    arch: str
    registers: int  # a thread
    spill_bytes: int  # of a thread: written to memory for want of registers, and read back
    shared_bytes: int  # a block
    wide_global_loads: int | None = (
        None  # instructions that load 16 bytes of global memory; None: not looked at
    )
    wide_shared_loads: int | None = None

    @property
    def template(self) -> str:
        """The name without its types."""
        return self.name.partition("<")[0]


def kernels_of(log: str) -> list[Kernel]:
    """The kernels of which `nvcc -Xptxas -v` speaks."""
    found = list(_ENTRY.finditer(log))
    names = _demangled([match["name"] for match in found])
    kernels = []
    for match, name in zip(found, names, strict=True):
        shared = _SHARED.search(match["rest"])
        kernels.append(
            Kernel(
                symbol=match["name"],
                name=name,
                arch=match["arch"],
                registers=int(match["registers"]),
                spill_bytes=int(match["stores"]) + int(match["loads"]),
                shared_bytes=int(shared[1]) if shared else 0,
            )
        )
    return kernels


def find_cuobjdump() -> str | None:
    """CUDA's, else the one of the Python package nvidia-cuda-cuobjdump; beside it is nvdisasm, which it calls."""
    places = [Path(folder) / "nvidia/cu13/bin/cuobjdump" for folder in sys.path if folder]
    candidates = ("cuobjdump", "/usr/local/cuda/bin/cuobjdump", *map(str, places))
    return next((path for candidate in candidates if (path := shutil.which(candidate))), None)


def count_wide_accesses(kernels: Sequence[Kernel], binary: Path, cuobjdump: str) -> list[Kernel]:
    """The same kernels with the 16-byte loads of their machine code in the binary."""
    found = os.pathsep.join([str(Path(cuobjdump).parent), os.environ.get("PATH", "")])
    command = [cuobjdump, "--dump-sass", str(binary)]
    sass = subprocess.run(
        command, env=os.environ | {"PATH": found}, capture_output=True, text=True, check=True
    ).stdout
    counts = {}
    for part in re.split(r"code for (?=sm_)", sass)[1:]:
        arch = part.split(maxsplit=1)[0]
        for function in part.split("Function : ")[1:]:
            loads = len(_LOAD.findall(function))
            counts[arch, function.split(maxsplit=1)[0]] = loads, len(_GLOBAL_LOAD.findall(function))
    return [
        replace(kernel, wide_global_loads=loads[1], wide_shared_loads=loads[0] - loads[1])
        for kernel in kernels
        for loads in [counts[kernel.arch, kernel.symbol]]
    ]


def table(kernels: Iterable[Kernel]) -> str:
    """In Markdown, a line for each kernel and architecture; what differs among its types as lowest-highest."""
    lines = [
        "| kernel | arch | types | registers | spilled bytes | shared bytes | 16-byte loads: global | shared |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (template, arch), group in groupby(sorted(kernels, key=_kind), key=_kind):
        same = list(group)
        columns = [
            template,
            arch,
            str(len(same)),
            _range(kernel.registers for kernel in same),
            _range(kernel.spill_bytes for kernel in same),
            _range(kernel.shared_bytes for kernel in same),
            _range(kernel.wide_global_loads for kernel in same),
            _range(kernel.wide_shared_loads for kernel in same),
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def _kind(kernel: Kernel) -> tuple[str, str]:
    return kernel.template, kernel.arch


def _range(numbers: Iterable[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    if not known:
        return "?"
    return str(min(known)) if min(known) == max(known) else f"{min(known)}-{max(known)}"


def _demangled(symbols: Sequence[str]) -> list[str]:
    """`void docmill::(anonymous namespace)::f<docmill::Int8>(docmill::Args)` becomes `f<Int8>`."""
    if not symbols:
        return []
    command = ["c++filt", "--no-params", *symbols]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [re.sub(r"\(anonymous namespace\)::|docmill::|^void ", "", name) for name in names]
