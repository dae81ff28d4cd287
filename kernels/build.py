"""Builds the CUDA kernels: `python -m docmill.kernels.build`. Needs nvcc (CUDA 13) and PyTorch, but no GPU.

The binary lands beside this file and is loaded from there. It holds code for each architecture of `--arch` and PTX for
later ones. PyTorch's CPU build will do: only the stable part of libtorch's ABI is used, so one binary serves 2.11 and
later. A file is compiled again only if it, a header, the command or the compiler has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from docmill.kernels._load import SOURCES, binary_path, source_files
from docmill.kernels.ptxas_report import Kernel, count_wide_accesses, find_cuobjdump, kernels_of, table

ARCHITECTURES = ("sm_80", "sm_90a")  # A100 and all Ampere; H100 and H200
PTX_ARCHITECTURE = "compute_90"  # the driver compiles it for what is newer
OBJECTS = Path("build/kernels")
TORCH_TARGET = "0x020b000000000000"  # 2.11: nothing newer of the stable ABI is used
FLAGS = ("-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v")


class BuildError(Exception):
    """nvcc is missing, or refused a file; says which, and what it said."""


@dataclass(frozen=True)
class Object:
    """A compiled file of csrc/, and what nvcc and ptxas said of it."""

    source: Path
    path: Path
    log: str

    def kernels(self) -> list[Kernel]:
        """Its kernels, with registers and spills; with the 16-byte accesses where there is cuobjdump."""
        kernels = kernels_of(self.log)
        cuobjdump = find_cuobjdump()
        return count_wide_accesses(kernels, self.path, cuobjdump) if kernels and cuobjdump else kernels


def find_nvcc() -> str | None:
    """CUDA_HOME's nvcc, else the PATH's, else that of the usual folder."""
    home = os.environ.get("CUDA_HOME")
    candidates = [f"{home}/bin/nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((path for candidate in candidates if (path := shutil.which(candidate))), None)


def compile_sources(*, architectures: Sequence[str] = ARCHITECTURES, folder: Path = OBJECTS) -> list[Object]:
    """Compiles what has changed, one file after the other; about a minute for all. Raises BuildError."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("there is no nvcc in CUDA_HOME, the PATH or /usr/local/cuda; install CUDA 13's")
    compiler = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    headers = b"".join(path.read_bytes() for path in source_files(".cuh", ".h"))
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in source_files(".cpp", ".cu"):
        flags = [*FLAGS, *_flags_of(source, architectures)]
        told = "\0".join([compiler, torch.__version__, *flags]).encode()
        key = hashlib.sha256(told + headers + source.read_bytes()).hexdigest()[:16]
        target = folder / f"{source.stem}.{key}.o"
        log = target.with_suffix(".log")
        if not (target.exists() and log.exists()):
            _compile([nvcc, *flags, "-c", source.name], target, log)
        objects.append(Object(source, target, log.read_text()))
    return objects


def link(objects: Sequence[Object], target: Path) -> Path:
    """The binary, in the place of all others that lie in its folder."""
    libraries = Path(torch.__file__).with_name("lib")
    command = [
        str(find_nvcc()),
        "-shared",
        "-nodlink",  # no kernel calls into another file; and it would note the folders below in the binary
        # CUDA's runtime inside: the binary then fits a PyTorch of any CUDA version, and loads where there is no CUDA.
        "-cudart=static",
        *(str(built.path) for built in objects),
        f"-L{libraries}",
        # libtorch is a name for all parts of PyTorch, those for CUDA too, also where this one has none of them.
        *("-Xlinker", "--no-as-needed", "-ltorch", "-ltorch_cpu"),
        *("-o", str(target)),
    ]
    _run(command, "linking")
    for other in target.parent.glob("_C*.so"):
        if other != target:
            other.unlink()
    return target


def _flags_of(source: Path, architectures: Sequence[str]) -> list[str]:
    if source.suffix == ".cpp":  # the only file that knows torch
        include = Path(torch.__file__).with_name("include")
        # torch's messages quote the file that they are in: without the folders of this machine.
        names = ["-Xcompiler", f"-ffile-prefix-map={include}=torch"]
        return ["-isystem", str(include), *names, "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
    codes = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
    return [*codes, f"-gencode=arch={PTX_ARCHITECTURE},code={PTX_ARCHITECTURE}"]


def _compile(command: list[str], target: Path, log: Path) -> None:
    for older in [*target.parent.glob(f"{target.name.partition('.')[0]}.*")]:
        older.unlink()
    # In csrc/, with a relative name: so that no path of this machine gets into the binary.
    log.write_text(_run([*command, "-o", str(target.resolve())], command[-1], cwd=SOURCES))


def _run(command: list[str], what: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"{what}: {' '.join(command)}\n{result.stdout}")
    return result.stdout


def main() -> int:
    """0 when it is built, or nothing is wrong; 1 when a kernel spills registers; 2 when it cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m docmill.kernels.build", description=__doc__)
    parser.add_argument(
        "--arch",
        nargs="+",
        default=ARCHITECTURES,
        metavar="SM",
        help=f"default: {' '.join(ARCHITECTURES)}",
    )
    parser.add_argument("--check", action="store_true", help="compile and look for spills, but link nothing")
    parser.add_argument("--table", action="store_true", help="print registers, spills and 16-byte accesses")
    options = parser.parse_args()
    try:
        objects = compile_sources(architectures=options.arch)
        kernels = [kernel for built in objects for kernel in built.kernels()]
        if options.table:
            print(table(kernels))
        if not options.check:
            print(f"built {link(objects, binary_path())}")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    spilling = [kernel for kernel in kernels if kernel.spill_bytes]
    for kernel in spilling:
        print(f"{kernel.arch}: {kernel.name} spills {kernel.spill_bytes} bytes", file=sys.stderr)
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
