"""Which implementation serves the ops: our CUDA kernels, from the binary beside this file, or PyTorch's own operations.

Each op's file declares its op here; importing it loads the binary if this PyTorch can use it, and never raises because
it cannot. CUDA tensors then go to the kernels, all others to the op's native twin, as do all tensors without a binary.
`implementation()` says which it is, and why.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

SOURCES = Path(__file__).with_name("csrc")
# Kept for the life of the process: with it the ops would go.
_LIBRARY = torch.library.Library("docmill", "FRAGMENT")
_NATIVE_CALLS: Counter[str] = Counter()


@dataclass(frozen=True)
class Implementation:
    """`cuda`: CUDA tensors are served by our kernels. `native`: all tensors by the twins. `reason` is one line."""

    name: Literal["cuda", "native"]
    reason: str
    binary: str = ""  # its file's name, which changes with the kernels


def implementation() -> Implementation:
    """What serves in this process. Asks the driver for GPUs, but starts no CUDA context."""
    if _PROBLEM is not None:
        return Implementation("native", _PROBLEM)
    if torch.cuda.device_count() == 0:
        return Implementation("native", "no NVIDIA GPU on this machine")
    return Implementation("cuda", f"{_BINARY.name} on {torch.cuda.device_count()} GPU(s)", _BINARY.name)


def declare(schema: str, *, native: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Declare `torch.ops.docmill.NAME`. This is the only place of its schema; the binary brings the kernel alone.

    `native` computes on any device, `fake` only shapes and dtypes (torch.compile). Raises RuntimeError if the op is
    there already: then there are two copies of docmill in the process.
    """
    name = schema.partition("(")[0]

    def counted(*arguments: Any) -> Any:
        _NATIVE_CALLS[name] += 1
        return native(*arguments)

    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, counted, "CompositeExplicitAutograd")  # the binary's kernels for CUDA go before it
    torch.library.register_fake(f"docmill::{name}", fake, lib=_LIBRARY)


def num_calls(op: str) -> int:
    """How often `op` has run in this process: its twin, and its kernel on the current GPU.

    The GPU counts for itself, so replays of CUDA graphs are in it. What other streams than the default one are doing
    may be in it or not. Not while a graph is captured.
    """
    on_gpu = _PROBLEM is None and torch.cuda.is_initialized()
    return _NATIVE_CALLS[op] + (kernel_calls(op, _BINARY) if on_gpu else 0)


def kernel_calls(op: str, binary: Path) -> int:
    """How often the kernels of a loaded binary have run on the current GPU. Raises RuntimeError if CUDA does."""
    number = ctypes.c_uint64()
    error = ctypes.CDLL(str(binary)).docmill_num_calls(op.encode(), ctypes.byref(number))
    if error:
        raise RuntimeError(f"the calls of {op} cannot be counted: CUDA error {error}")
    return number.value


def binary_path() -> Path:
    """Where the binary of exactly these sources is or would be: their hash is in its name, so no other is loaded."""
    digest = hashlib.sha256()
    for path in source_files(".cpp", ".cu", ".cuh", ".h"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return Path(__file__).with_name(f"_C.{digest.hexdigest()[:12]}.so")


def source_files(*suffixes: str) -> list[Path]:
    """The files of csrc/ that end so, by name."""
    return sorted(path for path in SOURCES.glob("*") if path.suffix in suffixes)


def load(binary: Path) -> str | None:
    """Loads the kernels. Why it could not, in one line, or None."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not binary.exists():
        others = sorted(binary.parent.glob("_C*.so"))
        found = (
            f"{others[0].name} is built from other sources; build anew" if others else "no binary; build it"
        )
        return f"{found}: python -m docmill.kernels.build"
    try:
        torch.ops.load_library(str(binary))
    except OSError as error:
        return f"the binary does not load: {str(error.__cause__ or error).splitlines()[0]}"
    return None


_BINARY = binary_path()  # of the sources as they were then: they may change under a running process
_PROBLEM = load(_BINARY)
