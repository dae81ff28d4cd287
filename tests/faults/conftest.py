"""The corpora of the fault tests and their right answers: one undisturbed run on the real vLLM for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.harness import Bench, bench
from servers.ceph_server import CephServer

SEED = 20261120


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory, ceph_server: CephServer) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("faults"), documents=60, seed=SEED, ceph=ceph_server) as things:
        yield things
