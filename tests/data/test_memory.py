"""Freed memory that goes back to the system."""

from __future__ import annotations

import os
from pathlib import Path

from docmill.data.memory import give_back


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_what_was_freed_between_what_stays_goes_back() -> None:
    pieces = [bytes(4096) for _ in range(50_000)]  # 200 MiB, from the C library
    kept = pieces[::500]
    del pieces
    before = resident_mib()
    give_back()
    assert resident_mib() < before - 100
    assert len(kept) == 100
