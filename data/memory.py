"""Gives back to the system what this process has freed."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Between two phases that need their memory for different things. Takes some milliseconds.

    The C library and Arrow keep freed memory for later, each for its own use; whoever counts this process's memory (a
    container's limit) counts it.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it, and only glibc needs it so
    if trim is not None:
        trim(0)
