"""Ray for the pools' tests: one on this machine that several tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# For shared_numbers: here, and through PYTHONPATH in the workers.
_HERE = str(Path(__file__).parent)
sys.path.insert(0, _HERE)


@pytest.fixture(scope="session")
def _workers_find_the_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _HERE)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def ray_here(_workers_find_the_tests: None) -> Iterator[Path]:
    """A Ray on this machine with room for four workers, started in 10 seconds; pools find and use it. Its logs."""
    from docmill.engine.pool.ray_session import ray_session

    with ray_session(address=None, num_cpus=4) as session:
        assert session.logs is not None
        yield session.logs


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
