"""The same job on files and on S3: equal answers, and every way in which S3 says no is said clearly.

On the real server (Ceph's gateway), which checks keys and survives being killed; once on moto.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers.ceph_server import CephServer
from servers.s3_server import S3Server, free_port

from docmill.data import storage
from docmill.data.demo.days import write_demo_days
from docmill.data.errors import StorageDenied, StorageNotFound, StorageUnreachable
from docmill.data.layout import Layout, answers_glob
from docmill.data.manifest import read_manifest
from docmill.data.records import Shard
from docmill.data.retries import RETRY_SECONDS
from docmill.data.shards import ShardReader
from docmill.engine.config import ModelConfig
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Report

DAY = date(2026, 11, 20)
TASKS: dict[str, Any] = {
    "translations": {"kind": "translate"},
    "classifications": {"kind": "classify", "labels": ["delivery", "billing"]},
    "summaries": {"kind": "summarize"},
}


@pytest.fixture(scope="module")
def tokenizer() -> ModelTokenizer:
    return ModelTokenizer(ModelConfig())


@pytest.fixture
def ceph(ceph_server: CephServer, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The real server, led to by the environment alone, as a user's is."""
    for name, value in ceph_server.s3.env().items():
        monkeypatch.setenv(name, value)
    return ceph_server.s3


@pytest.fixture
def moto(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    return moto_server


def job_in(uri: str, **changes: Any) -> Job:
    return Job.model_validate(
        {
            "name": "test",
            "source": {"uri": f"{uri}/documents", "carry": ["language"]},
            "output": {"uri": f"{uri}/answers"},
            "engine": {"kind": "fake"},
            "tasks": TASKS,
            **changes,
        }
    )


def run(uri: str, tokenizer: ModelTokenizer, **changes: Any) -> Report:
    job = job_in(uri, **changes)
    return run_partition(job, job.partition(str(DAY)), tokenizer=tokenizer)


def answers(uri: str, task: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of each file, without the time and what was spared: of two equal rows, either may be asked first."""
    layout = Layout(f"{uri}/answers", job_in(uri).partition(str(DAY)))
    found = {}
    for shard in storage.list_shards(layout.answers_folder(task)):
        with storage.open_input(shard.uri) as stream:
            table = pq.read_table(pa.BufferReader(stream.read()))
        found[shard.name] = table.drop_columns(["produced_at", "cached_tokens"]).to_pylist()
    return found


def write_large_shard(folder_uri: str) -> Shard:
    """12 MB that do not compress, which are read in several blocks."""
    texts = [os.urandom(40_000).hex() for _ in range(300)]
    table = pa.table({"doc_id": [str(number) for number in range(300)], "text": texts})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=50, use_dictionary=False)
    storage.put_bytes(f"{folder_uri}/a.parquet", sink.getvalue().to_pybytes())
    (shard,) = storage.list_shards(folder_uri)
    return shard


def check_the_same_as_on_files(s3_uri: str, file_uri: str, tokenizer: ModelTokenizer) -> None:
    for uri in (s3_uri, file_uri):
        write_demo_days(
            f"{uri}/documents", seed=2, days=[DAY], documents_per_day=60, shards_per_day=3, hostile=True
        )
    reports = [run(uri, tokenizer) for uri in (s3_uri, file_uri)]
    assert reports[0].documents == reports[1].documents > 60
    assert reports[0].tokens.model_dump(exclude={"cached"}) == reports[1].tokens.model_dump(
        exclude={"cached"}
    )
    for task in TASKS:
        assert reports[0].tasks[task].counts == reports[1].tasks[task].counts
        assert answers(s3_uri, task) == answers(file_uri, task)
    layout = Layout(f"{s3_uri}/answers", job_in(s3_uri).partition(str(DAY)))
    manifest = read_manifest(layout.manifest)
    assert manifest is not None
    assert set(manifest.tasks) == set(TASKS)

    # Again, with one shard gone: replaced, not appended, and nothing stale is left.
    storage.delete(f"{s3_uri}/documents/dt={DAY}/part-0001.parquet")
    before = answers(s3_uri, "summaries")
    run(s3_uri, tokenizer)
    after = answers(s3_uri, "summaries")
    assert after == {name: rows for name, rows in before.items() if name != "part-0001.parquet"}


@pytest.mark.s3
def test_a_job_on_the_real_server_gives_the_answers_that_it_gives_on_files(
    ceph: S3Server, tmp_path: Path, tokenizer: ModelTokenizer
) -> None:
    check_the_same_as_on_files(ceph.uri("test_storage_s3/same"), f"file://{tmp_path}", tokenizer)


def test_a_job_on_moto_gives_the_answers_that_it_gives_on_files(
    moto: S3Server, tmp_path: Path, tokenizer: ModelTokenizer
) -> None:
    check_the_same_as_on_files(moto.uri("test_storage_s3/same"), str(tmp_path), tokenizer)


@pytest.mark.s3
def test_answers_on_the_real_server_are_there_for_polars(ceph: S3Server, tokenizer: ModelTokenizer) -> None:
    uri = ceph.uri("test_storage_s3/polars")
    write_demo_days(f"{uri}/documents", seed=2, days=[DAY], documents_per_day=20, shards_per_day=2)
    run(uri, tokenizer)
    table = pl.scan_parquet(answers_glob(f"{uri}/answers", "translations")).collect()
    assert table.height == 20
    assert set(table["status"]) == {"ok"}


@pytest.mark.s3
@pytest.mark.parametrize(
    "wrong",
    [{"AWS_ACCESS_KEY_ID": "nobody"}, {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}],
    ids=["key", "secret"],
)
def test_a_wrong_key_is_refused_before_any_work(
    ceph: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wrong: dict[str, str],
    tokenizer: ModelTokenizer,
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    s3_uri = ceph.uri("test_storage_s3/refused")
    write_demo_days(f"{tmp_path}/documents", seed=2, days=[DAY], documents_per_day=5)
    for changes in ({"source": {"uri": f"{s3_uri}/documents"}}, {"output": {"uri": f"{s3_uri}/answers"}}):
        with pytest.raises(StorageDenied, match="access denied by http.*AWS_ACCESS_KEY_ID") as caught:
            run(str(tmp_path), tokenizer, **changes)
        assert caught.value.uri.startswith(s3_uri)
        assert "not-the-secret" not in str(caught.value), "secrets never reach a message"
        assert ceph.secret_key not in str(caught.value)


@pytest.mark.s3
def test_without_any_key_the_variables_to_set_are_named(
    ceph: S3Server, monkeypatch: pytest.MonkeyPatch, tokenizer: ModelTokenizer
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageDenied, match="AWS_ACCESS_KEY_ID"):
        run(ceph.uri("test_storage_s3/anonymous"), tokenizer)


@pytest.mark.s3
def test_a_missing_bucket_is_named(ceph: S3Server, tmp_path: Path, tokenizer: ModelTokenizer) -> None:
    with pytest.raises(StorageNotFound, match="bucket 'nobodys' does not exist"):
        run("s3://nobodys/docs", tokenizer)
    write_demo_days(f"{tmp_path}/documents", seed=2, days=[DAY], documents_per_day=5)
    with pytest.raises(StorageNotFound, match="bucket 'nobodys' does not exist"):
        run(str(tmp_path), tokenizer, output={"uri": "s3://nobodys/answers"})


@pytest.mark.s3
def test_an_endpoint_where_nobody_listens_is_given_up_within_half_a_minute(
    ceph: S3Server, monkeypatch: pytest.MonkeyPatch, tokenizer: ModelTokenizer
) -> None:
    endpoint_url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url)
    monkeypatch.setenv(RETRY_SECONDS, "10")  # by default a job waits two minutes for a store that restarts
    started = time.monotonic()
    with pytest.raises(StorageUnreachable, match=endpoint_url):
        run(ceph.uri("test_storage_s3/unreachable"), tokenizer)
    assert time.monotonic() - started < 30


@pytest.mark.s3
@pytest.mark.slow
def test_a_server_that_goes_away_while_a_shard_is_read_is_unreachable_and_the_shard_not_corrupt(
    ceph_server: CephServer, ceph: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_SECONDS, "3")  # it does not come back while this test waits
    shard = write_large_shard(ceph.uri("test_storage_s3/gone"))
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
        batches = iter(reader)
        next(batches)
        ceph_server.kill_gateway()
        try:
            with pytest.raises(StorageUnreachable):
                list(batches)
        finally:
            ceph_server.start_gateway()
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
        assert sum(len(batch.documents) for batch in reader) == 300


@pytest.mark.s3
@pytest.mark.slow
def test_a_shard_is_read_through_a_restart_of_the_server(ceph_server: CephServer, ceph: S3Server) -> None:
    shard = write_large_shard(ceph.uri("test_storage_s3/restart"))
    with ShardReader(shard, id_column="doc_id", text_column="text", carry=[]) as reader:
        batches = iter(reader)
        ids = [document.doc_id for document in next(batches).documents]
        ceph_server.kill_gateway()
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(lambda: [d.doc_id for batch in batches for d in batch.documents])
            try:
                time.sleep(1.5)
                assert not reading.done(), "it waits for the server"
            finally:
                ceph_server.start_gateway()
            ids += reading.result()
    assert ids == [str(number) for number in range(300)]


@pytest.mark.s3
@pytest.mark.slow
def test_a_server_that_is_killed_during_a_run_ends_it_and_the_next_run_completes(
    ceph_server: CephServer, ceph: S3Server, tokenizer: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_SECONDS, "3")  # it does not come back while this test waits
    uri = ceph.uri("test_storage_s3/killed")
    write_demo_days(f"{uri}/documents", seed=2, days=[DAY], documents_per_day=40, shards_per_day=4)
    run(uri, tokenizer)
    before = {task: answers(uri, task) for task in TASKS}
    job = job_in(uri)
    killed = []

    def kill(_: object) -> None:
        if not killed:
            killed.append(True)
            ceph_server.kill_gateway()

    try:
        with pytest.raises(StorageUnreachable):
            run_partition(job, job.partition(str(DAY)), tokenizer=tokenizer, on_progress=kill)
    finally:
        ceph_server.start_gateway()
    assert {task: answers(uri, task) for task in TASKS} == before
    assert run(uri, tokenizer).documents == 40
    assert {task: answers(uri, task) for task in TASKS} == before
