"""The Ray pool on one machine: sharing, stopping, losing workers, errors, and what is left behind."""

import os
import signal
import threading
import time
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import shared_numbers
from shared_numbers import do_numbers, done_numbers, gone, worker_pids

from docmill.engine.errors import EngineDied, ModelError
from docmill.engine.pool.errors import PoolLost, WorkerError
from docmill.engine.pool.ray_pool import RayPool, WorkerResources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def pool(workers: int = 2, **settings) -> RayPool:
    resources = settings.pop("resources", WorkerResources(num_cpus=1, num_gpus=0))
    return RayPool(workers=workers, resources=resources, **settings)


@pytest.mark.usefixtures("ray_here")
def test_two_workers_share_the_work(tmp_path: Path, polls) -> None:
    work = partial(do_numbers, folder=tmp_path, count=60, together=2)
    result = pool().run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert sorted(result.values[0] + result.values[1]) == list(range(60))
    assert all(result.values), "one worker did everything"
    assert len({item.name for item in result.results}) == 2
    assert result.lost == ()
    assert polls.count >= 5
    assert os.getpid() not in worker_pids(tmp_path)


@pytest.mark.usefixtures("ray_here")
def test_stop_ends_the_workers_and_keeps_what_they_return(tmp_path: Path, polls) -> None:
    stop = threading.Event()
    polls.when(lambda: len(done_numbers(tmp_path)) >= 10, stop.set)
    work = partial(do_numbers, folder=tmp_path, count=100_000, together=2)
    result = pool().run(work, on_poll=polls, stop=stop, poll_seconds=0.1)
    assert sorted(chain(*result.values)) == done_numbers(tmp_path)
    assert len(result.results) == 2
    assert result.lost == ()


@pytest.mark.usefixtures("ray_here")
def test_a_worker_that_does_not_stop_is_killed_after_the_grace(tmp_path: Path, polls) -> None:
    stop = threading.Event()
    polls.when(lambda: done_numbers(tmp_path), stop.set)
    work = partial(do_numbers, folder=tmp_path, count=100_000, sulky=True)
    started = time.monotonic()
    result = pool(1, stop_grace_seconds=1).run(work, on_poll=polls, stop=stop, poll_seconds=0.1)
    assert result.results == ()
    assert [item.reason for item in result.lost] == [
        "killed: it had not ended 1 seconds after it was told to"
    ]
    assert gone(worker_pids(tmp_path)[0])
    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_is_started_again_and_the_job_completes(tmp_path: Path, polls) -> None:
    polls.when(
        lambda: len(done_numbers(tmp_path)) >= 10, lambda: os.kill(worker_pids(tmp_path)[0], signal.SIGKILL)
    )
    work = partial(do_numbers, folder=tmp_path, count=40, together=2, last_needs=3)
    result = pool().run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert done_numbers(tmp_path) == list(range(40))
    assert len(worker_pids(tmp_path)) == 3, "the lost worker was not started again"
    assert len(result.results) == 2
    (lost,) = result.lost
    assert str(worker_pids(tmp_path)[0]) in lost.name
    assert "its worker process has died" in lost.reason
    assert "\n" not in lost.reason


@pytest.mark.usefixtures("ray_here")
def test_the_others_go_on_without_a_worker_that_may_not_start_again(tmp_path: Path, polls) -> None:
    polls.when(
        lambda: len(done_numbers(tmp_path)) >= 10, lambda: os.kill(worker_pids(tmp_path)[1], signal.SIGKILL)
    )
    work = partial(do_numbers, folder=tmp_path, count=100, together=2)
    result = pool(max_worker_restarts=0).run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert done_numbers(tmp_path) == list(range(100))
    assert (len(result.results), len(result.lost)) == (1, 1)


@pytest.mark.usefixtures("ray_here")
def test_no_worker_left_is_an_error_that_a_later_run_can_repair(tmp_path: Path, polls) -> None:
    work = partial(shared_numbers.kill_myself, folder=tmp_path)
    with pytest.raises(PoolLost, match="run the same job again") as caught:
        pool(1, max_worker_restarts=1).run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert caught.value.retryable
    assert len(caught.value.lost) == 2  # the worker, and the one that was started in its place
    assert len(worker_pids(tmp_path)) == 2


@pytest.mark.usefixtures("ray_here")
def test_an_error_of_the_job_stops_the_others_and_keeps_its_type(tmp_path: Path, polls) -> None:
    work = partial(shared_numbers.fail_once_others_work, folder=tmp_path, kind="final")
    with pytest.raises(ModelError, match="it is not there") as caught:
        pool().run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert caught.value.source == "some/model"
    assert "fail_once_others_work" in caught.value.__notes__[0]
    assert len(done_numbers(tmp_path)) < 60
    assert all(gone(pid) for pid in worker_pids(tmp_path))


@pytest.mark.usefixtures("ray_here")
def test_an_error_that_may_pass_costs_one_worker(tmp_path: Path, polls) -> None:
    work = partial(shared_numbers.fail_once_others_work, folder=tmp_path, kind="retryable")
    result = pool().run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert done_numbers(tmp_path) == list(range(60))
    assert [item.reason for item in result.lost] == [
        "EngineDied: the engine died with 3 requests in flight: out of luck"
    ]


@pytest.mark.usefixtures("ray_here")
def test_the_last_workers_own_error_is_the_cause_of_a_lost_pool(tmp_path: Path, polls) -> None:
    work = partial(shared_numbers.fail_once_others_work, folder=tmp_path, kind="retryable", alone=True)
    with pytest.raises(PoolLost, match="out of luck") as caught:
        pool(1).run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert isinstance(caught.value.__cause__, EngineDied)
    assert caught.value.__cause__.num_in_flight == 3


@pytest.mark.usefixtures("ray_here")
def test_work_that_a_worker_cannot_import_is_named(tmp_path: Path, polls, monkeypatch) -> None:
    (tmp_path / "only_here.py").write_text("def work(worker): return worker.name")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    with pytest.raises(WorkerError, match="only_here") as caught:
        pool().run(only_here.work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert not caught.value.retryable


def test_workers_get_the_runners_variables_and_ray_logs_none(ray_here: Path, polls, monkeypatch) -> None:
    secret = "sesame-7f3a91"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)  # after Ray was started: it cannot have inherited it
    work = partial(shared_numbers.tell_environment, name="AWS_SECRET_ACCESS_KEY")
    result = pool(1).run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert result.values == [(secret, 0)]
    logs = [path for path in ray_here.rglob("*") if path.is_file()]
    assert logs
    assert [path.name for path in logs if secret in path.read_text(errors="replace")] == []


@pytest.mark.usefixtures("ray_here")
def test_a_worker_too_large_for_the_cluster_is_given_up(polls) -> None:
    large = pool(1, resources=WorkerResources(num_cpus=64, num_gpus=0), start_timeout_seconds=1)
    with pytest.raises(PoolLost, match=r"no room for it \(64 CPUs and 0 GPUs\)"):
        large.run(shared_numbers.chatter, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)


@pytest.mark.usefixtures("ray_here")
def test_what_a_killed_worker_had_started_ends_with_it(tmp_path: Path, polls) -> None:
    polls.when(lambda: worker_pids(tmp_path), lambda: os.kill(worker_pids(tmp_path)[0], signal.SIGKILL))
    work = partial(shared_numbers.start_a_child_and_wait, folder=tmp_path)
    with pytest.raises(PoolLost):
        pool(1, max_worker_restarts=0).run(work, on_poll=polls, stop=threading.Event(), poll_seconds=0.1)
    assert gone(int((tmp_path / "child").read_text()))
