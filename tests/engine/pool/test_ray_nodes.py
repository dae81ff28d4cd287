"""The Ray pool on a cluster that it joins: two nodes on this machine, one of them with (named, not real) GPUs."""

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import shared_numbers
from shared_numbers import do_numbers, done_numbers

from docmill.engine.pool.errors import PoolUnreachable
from docmill.engine.pool.ray_pool import RayPool, WorkerResources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class TwoNodes:
    """A head with one CPU, where the driver connects, and a node with one CPU and two GPUs."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._cluster.add_node(num_cpus=1, include_dashboard=False)
        self.address: str = self._cluster.address
        self._node = self._cluster.add_node(num_cpus=1, num_gpus=2)

    @property
    def node_pids(self) -> list[int]:
        """Of the second node: all of its processes."""
        roots = [item.process.pid for items in self._node.all_processes.values() for item in items]
        return roots + [child.pid for pid in roots for child in psutil.Process(pid).children(recursive=True)]

    def kill_node(self) -> None:
        for pid in self.node_pids:
            os.kill(pid, signal.SIGKILL)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    from docmill.engine.pool.ray_session import _reread_authentication

    with pytest.MonkeyPatch.context() as patch:
        # What a user of a cluster with a token sets.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "5e5a3e" * 10)
        _reread_authentication()
        nodes = TwoNodes()
        try:
            yield nodes
        finally:
            nodes.shutdown()


def test_a_model_in_two_parts_gets_two_gpus_of_one_node(two_nodes: TwoNodes, polls) -> None:
    pool = RayPool(workers=1, resources=WorkerResources(tensor_parallel_size=2), address=two_nodes.address)
    result = pool.run(shared_numbers.visible_gpus, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert result.values == [(2, "0,1")]


def test_a_worker_that_finds_no_room_is_not_waited_for(two_nodes: TwoNodes, polls) -> None:
    """Both workers fit the GPUs, but there is one CPU beside them: the second is not needed any more."""
    pool = RayPool(workers=2, resources=WorkerResources(num_gpus=0.5), address=two_nodes.address)
    result = pool.run(shared_numbers.visible_gpus, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert result.values == [(0.5, "0")]
    assert result.lost == ()


def test_one_node_of_two_is_killed_and_the_job_completes(two_nodes: TwoNodes, tmp_path: Path, polls) -> None:
    """Last: the node does not come back."""
    polls.when(lambda: len(done_numbers(tmp_path)) >= 10, two_nodes.kill_node)
    work = partial(do_numbers, folder=tmp_path, count=60, together=2)
    pool = RayPool(workers=2, resources=WorkerResources(num_gpus=0), address=two_nodes.address)
    result = pool.run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert done_numbers(tmp_path) == list(range(60))
    (lost,) = result.lost
    assert "\n" not in lost.reason
    # The other one finished, and made room where the lost one's successor found nothing left to do.
    finisher, *successor = result.results
    assert len(finisher.value) >= 45
    assert [item.value for item in successor] in ([], [[]])


def test_an_address_where_nothing_listens_is_named_at_once(polls) -> None:
    with pytest.raises(PoolUnreachable, match="127.0.0.1:1: .*refused") as caught:
        RayPool(workers=1, address="127.0.0.1:1").run(
            shared_numbers.chatter, on_poll=polls, stop=threading.Event()
        )
    assert caught.value.retryable
