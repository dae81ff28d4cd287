"""The engines of `hosted_engines` by their short name, here and in the processes that host them (sys.path is passed
on), and what a test may not leave behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

STARTER = "docmill-starter"  # lives as long as the process, on purpose


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(STARTER)}


def _connections() -> set[str]:
    """Sockets and pipes of this process, by what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:")):
            found.add(target)
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No thread, socket or pipe more than before the test."""
    threads, connections = _threads(), _connections()
    yield
    end = time.monotonic() + 5
    while (_threads() - threads or _connections() - connections) and time.monotonic() < end:
        time.sleep(0.05)
    assert _threads() - threads == set()
    assert _connections() - connections == set()
