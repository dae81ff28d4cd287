"""Whole jobs on a real S3 server that misbehaves, or that two runs share. With the fake engine: the store counts."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from faults.checks import check_objects
from faults.job_folder import ANSWER_COLUMNS, DAY, DOCMILL, JobFolder, make_job, read_answers, write_corpus
from faults.kills import JobOutcome
from faults.processes import Run, send
from faults.watch import Watch
from servers.ceph_server import CephServer
from servers.faulty_proxy import Fault, FaultyProxy

pytestmark = [pytest.mark.slow, pytest.mark.s3]

DOCUMENTS = 600
SETTINGS = {"engine": {"kind": "fake"}, "ledger": {"unit_seconds": 0.2, "segment_seconds": 0.2}}


@pytest.fixture(scope="module")
def corpus(ceph_server: CephServer) -> tuple[str, list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ceph_server.s3.env().items():
            patch.setenv(name, value)
        uri = ceph_server.s3.uri("faults-store/corpus")
        return uri, write_corpus(uri, documents=DOCUMENTS, seed=11)


@pytest.fixture(autouse=True)
def _store(ceph_server: CephServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ceph_server.s3.env().items():
        monkeypatch.setenv(name, value)


def start(job: JobFolder, number: int, **env: str) -> Run:
    command = [DOCMILL, "run", str(job.file), "--partition", DAY]
    return Run(command, log=job.file.with_name(f"run-{number}.log"), env=env)


def answers_of(job: JobFolder) -> dict[str, list[dict[str, object]]]:
    return {task: read_answers(job, task).to_dicts() for task in ANSWER_COLUMNS}


def assert_complete(job: JobFolder, doc_ids: list[str]) -> None:
    """Each document once in each task, in order; nothing else lies in the output."""
    for task in ANSWER_COLUMNS:
        answers = read_answers(job, task)
        assert answers["doc_id"].to_list() == doc_ids
        assert set(answers["status"]) == {"ok"}
    outcome = JobOutcome("", 0, "")
    check_objects(outcome, job)
    assert outcome.clean, outcome


def test_a_job_ends_well_on_a_store_that_fails_every_tenth_request(
    ceph_server: CephServer, corpus: tuple[str, list[str]], tmp_path: Path
) -> None:
    uri, doc_ids = corpus
    quiet = make_job(tmp_path / "quiet", uri, ceph_server.s3.uri("faults-store/quiet"), **SETTINGS)
    run = start(quiet, 1)
    assert run.wait(120) == 0, run.tail()
    job = make_job(tmp_path / "faulty", uri, ceph_server.s3.uri("faults-store/faulty"), **SETTINGS)
    rates = dict.fromkeys(Fault, 0.1 / len(Fault))
    with FaultyProxy(ceph_server.s3, seed=7, rates=rates, delay_seconds=2) as proxy:
        run = start(job, 1, **proxy.s3.env())
        assert run.wait(200) == 0, run.tail()
    assert set(proxy.injected) == set(Fault), f"the job was too short for every fault: {proxy.injected}"
    assert_complete(job, doc_ids)
    assert answers_of(job) == answers_of(quiet)


def test_two_runs_at_the_same_time_share_the_work_and_write_it_once(
    ceph_server: CephServer, corpus: tuple[str, list[str]], tmp_path: Path
) -> None:
    """The first is held up while the second begins, so that they do run at the same time."""
    uri, doc_ids = corpus
    job = make_job(tmp_path, uri, ceph_server.s3.uri("faults-store/two"), **SETTINGS)
    watch = Watch(job.layout)
    first = start(job, 1)
    wait_for_worker(watch, first)
    send(first.pid, signal.SIGSTOP)
    second = start(job, 2)
    try:
        wait_for_worker(watch, second)
    finally:
        send(first.pid, signal.SIGCONT)
    assert (first.wait(120), second.wait(120)) == (0, 0), (first.tail(), second.tail())
    assert_complete(job, doc_ids)


def wait_for_worker(watch: Watch, run: Run) -> None:
    """Until the run's worker says that it has begun."""
    end = time.monotonic() + 60
    while not watch.by_pid(run.pid):
        assert run.status is None, f"it was over before it could be seen: {run.tail()}"
        assert time.monotonic() < end, run.tail()
        time.sleep(0.02)
        watch.look()
