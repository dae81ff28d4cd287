"""Ray for the pools' tests: one on this machine that several tests share."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# For shared_numbers: here, and through PYTHONPATH in the workers.
_HERE = str(Path(__file__).parent)
sys.path.insert(0, _HERE)


@pytest.fixture(scope="session", autouse=True)
def _rays_surroundings() -> Iterator[None]:
    """Workers find the tests' modules, no test a cluster of the user's, and Ray's own files go when the tests end."""
    # Not pytest's folder: a Unix socket's path holds 107 characters.
    folder = tempfile.TemporaryDirectory(prefix="docmill-", dir="/tmp", ignore_cleanup_errors=True)
    with folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _HERE)
        patch.setenv("RAY_TMPDIR", folder.name)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Path]:
    """A Ray on this machine with room for four workers, started in 10 seconds; pools find and use it. Its logs."""
    from docmill.engine.pool.ray_session import ray_session

    with ray_session(address=None, num_cpus=4) as session:
        assert session.logs is not None
        yield session.logs
    assert not session.logs.parent.exists(), "Ray's files were left behind though no session lost a worker"


@pytest.fixture
def polls() -> Polls:
    return Polls()


class Polls:
    """An `on_poll` that counts, and does something once a condition holds."""

    def __init__(self) -> None:
        self.count = 0
        self._reactions: list[tuple[Callable[[], object], Callable[[], object]]] = []

    def when(self, condition: Callable[[], object], reaction: Callable[[], object]) -> Polls:
        self._reactions.append((condition, reaction))
        return self

    def __call__(self) -> None:
        self.count += 1
        for pair in list(self._reactions):
            if pair[0]():
                self._reactions.remove(pair)
                pair[1]()
