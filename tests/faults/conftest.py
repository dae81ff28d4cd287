"""The corpora of the fault tests and their right answers: one undisturbed run on the real vLLM for all of them.

For all processes of the suite too: the first that comes makes it, the others wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from faults.harness import Bench, bench
from servers.ceph_server import CephServer

SEED = 20261120


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory, ceph_server: CephServer) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    kept = None
    if "PYTEST_XDIST_WORKER" in os.environ:
        kept = tmp_path_factory.getbasetemp().parent / "undisturbed.pickle"
    with bench(folder, documents=60, seed=SEED, ceph=ceph_server, kept=kept) as things:
        yield things
