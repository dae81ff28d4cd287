"""Every fault of the proxy is survived by every call, and what cannot be survived is given up in time.

tests/servers/faulty_proxy.py breaks the requests, in front of moto and of Ceph's gateway.
"""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers.ceph_server import CephServer
from servers.faulty_proxy import Fault, FaultyProxy
from servers.s3_server import S3Server

from docmill.data import retries, storage, uploads
from docmill.data.errors import StorageSettingError, StorageUnreachable
from docmill.data.layout import join

HELD_SECONDS = 8  # longer than the shortest time that a store may keep silent (5 s)


def lead_to(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.s3)])
def server(request: pytest.FixtureRequest) -> S3Server:
    if request.param == "moto":
        moto: S3Server = request.getfixturevalue("moto_server")
        return moto
    ceph: CephServer = request.getfixturevalue("ceph_server")
    return ceph.s3


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """In front of the server, with no faults but those asked for; the environment leads to it."""
    with FaultyProxy(server, delay_seconds=HELD_SECONDS) as proxy:
        lead_to(proxy.s3, monkeypatch)
        # A server that keeps silent is left after 5 s, and there is time for some more attempts.
        monkeypatch.setenv(retries.RETRY_SECONDS, "20")
        yield proxy


@pytest.fixture
def folder_uri(server: S3Server, request: pytest.FixtureRequest) -> str:
    return server.uri(f"test_storage_faults/{request.node.name}")


def parquet_file(num_rows: int = 4000) -> bytes:
    """Some megabytes in several row groups, so that a reader asks for several ranges."""
    digits = random.Random(3)
    table = pa.table(
        {"doc_id": list(range(num_rows)), "text": [digits.randbytes(1500).hex() for _ in range(num_rows)]}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=num_rows // 4, use_dictionary=False)
    return sink.getvalue().to_pybytes()


def check_put(uri: str) -> None:
    content = b"put" * 50_000
    storage.put_bytes(uri, content)
    assert storage.read_bytes(uri) == content


def check_create(uri: str) -> None:
    assert storage.create_bytes(uri, b"mine"), "the loser of the race against ourselves is still the winner"
    assert not storage.create_bytes(uri, b"theirs")
    assert storage.read_bytes(uri) == b"mine"


def check_replace(uri: str) -> None:
    _, version = storage.read_versioned(uri)
    assert storage.replace_bytes(uri, b"second", version=version)
    assert not storage.replace_bytes(uri, b"third", version=version)
    assert storage.read_bytes(uri) == b"second"


def check_get(uri: str) -> None:
    assert storage.read_bytes(uri) == b"first" * 1000
    assert storage.exists(uri)


def check_ranges(uri: str) -> None:
    with storage.open_input(uri) as stream:
        file = pq.ParquetFile(stream)
        rows = [row for batch in file.iter_batches(500) for row in batch.column("doc_id").to_pylist()]
    assert rows == list(range(4000))


def check_list(uri: str) -> None:
    assert [file.name for file in storage.list_files(uri)] == ["0", "1", "2"]


def check_delete(uri: str) -> None:
    storage.delete_folder(uri)
    assert storage.list_files(uri) == []


# What is called, the method of its requests that get the fault, and what lies there before.
CALLS: dict[str, tuple[Callable[[str], None], str, dict[str, bytes]]] = {
    "put": (check_put, "PUT", {}),
    "create": (check_create, "PUT", {}),
    "replace": (check_replace, "PUT", {"": b"first"}),
    "get": (check_get, "GET", {"": b"first" * 1000}),
    "ranges": (check_ranges, "GET", {"": parquet_file()}),
    "list": (check_list, "GET", {f"/{number}": b"" for number in range(3)}),
    "delete": (check_delete, "POST", {f"/{number}": b"" for number in range(3)}),
}


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
def test_every_call_survives(fault: Fault, proxy: FaultyProxy, folder_uri: str) -> None:
    calls = {name: call for name, call in CALLS.items() if fault is not Fault.TORN_UPLOAD or call[1] != "GET"}
    times = 1 if fault is Fault.DELAY else 3
    for name, (_, _, before) in calls.items():
        for suffix, content in before.items():
            storage.put_bytes(join(folder_uri, name) + suffix, content)
    for name, (_, method, _) in calls.items():
        # A listing names its folder in the query, a bulk removal its bucket alone.
        target = {"list": "list%2F", "delete": "delete"}.get(name, f"/{name}")
        proxy.fail_next(fault, times=times, method=method, target=target)
    with ThreadPoolExecutor(len(calls)) as threads:  # at once: each waits for a silent server
        started = [threads.submit(check, join(folder_uri, name)) for name, (check, _, _) in calls.items()]
        for call in started:
            call.result()
    assert proxy.num_waiting == 0
    assert proxy.injected == {fault: times * len(calls)}


@pytest.mark.parametrize("seed", [1, 2])
def test_many_calls_of_many_threads_survive_a_bad_day(seed: int, server: S3Server, folder_uri: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    rates = {fault: 0.06 for fault in Fault if fault is not Fault.DELAY}
    with FaultyProxy(server, seed=seed, rates=rates) as proxy:
        lead_to(proxy.s3, monkeypatch)

        def write(owner: int) -> None:
            for number in range(15):
                uri = join(folder_uri, f"{owner:02}-{number:02}")
                assert storage.create_bytes(uri, uri.encode())
                assert not storage.create_bytes(uri, b"another's")
                assert storage.read_bytes(uri) == uri.encode()
            storage.delete_files(join(folder_uri, f"{owner:02}-{number:02}") for number in range(5))

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(write, range(6)))
        names = [file.name for file in storage.list_files(folder_uri)]
    assert names == [f"{owner:02}-{number:02}" for owner in range(6) for number in range(5, 15)]
    assert all(proxy.injected[fault] > 0 for fault in rates), proxy.injected


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.RESET, Fault.LOST_ANSWER])
def test_a_call_is_given_up_after_the_configured_time(
    fault: Fault, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(retries.RETRY_SECONDS, "3")
    with FaultyProxy(moto_server, rates={fault: 1.0}) as proxy:
        lead_to(proxy.s3, monkeypatch)
        uri = proxy.s3.uri("test_storage_faults/given_up")
        started = time.monotonic()
        with pytest.raises(StorageUnreachable, match=r"Tried \d+ times for \d s \(DOCMILL_STORAGE") as caught:
            storage.put_bytes(uri, b"content")
        seconds = time.monotonic() - started
    assert 3 <= seconds < 6
    num_tried = int(re.findall(r"Tried (\d+)", str(caught.value))[0])
    assert 4 <= num_tried <= 60, "more and more slowly"
    # aiohttp repeats a PUT once by itself where a kept connection turns out to be closed, never on a new one.
    assert num_tried <= proxy.num_requests <= 2 * num_tried, "retries of several layers multiply"
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == num_tried - 1
    assert re.match(rf"storage retry uri={uri} attempt=1 reason=\w+ pause_seconds=", warnings[0].getMessage())
    assert moto_server.secret_key not in caplog.text + str(caught.value)


def test_nothing_is_tried_again_where_that_is_switched_off(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(retries.RETRY_SECONDS, "0")
    with FaultyProxy(moto_server, rates={Fault.SLOW_DOWN: 1.0}) as proxy:
        lead_to(proxy.s3, monkeypatch)
        with pytest.raises(StorageUnreachable, match="SlowDown"):
            storage.list_files(proxy.s3.uri("test_storage_faults"))
        assert proxy.num_requests == 1


@pytest.mark.parametrize("wrong", ["a minute", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(retries.RETRY_SECONDS, wrong)
    with pytest.raises(StorageSettingError, match=rf"DOCMILL_STORAGE_RETRY_SECONDS is '{wrong}', expected"):
        storage.put_bytes(f"{tmp_path}/a", b"")


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_is_left_in_time(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it takes none of an upload; 3 MB are more than the kernel takes in its place."""
    monkeypatch.setenv(retries.RETRY_SECONDS, "4")
    accepted: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)

        def accept() -> None:
            while True:
                try:
                    accepted.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            lead_to(moto_server, monkeypatch)
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
            uri = moto_server.uri("test_storage_faults/silent")
            for call in (lambda: storage.read_bytes(uri), lambda: storage.put_bytes(uri, bytes(3_000_000))):
                started = time.monotonic()
                with pytest.raises(StorageUnreachable, match=r"Tried .* for \d+ s"):
                    call()
                seconds = time.monotonic() - started
                assert seconds < 4 + 5 + 6 + 3, f"held for {seconds:.0f} s: limit, silence, 3 MB at 0.5 MB/s"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


def test_a_torn_upload_leaves_nothing_to_be_seen(
    server: S3Server, folder_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a half object nor a new one in place of the old, of one PUT or of several parts."""
    monkeypatch.setenv(retries.RETRY_SECONDS, "2")
    local = tmp_path / "large"
    local.write_bytes(b"new" * (uploads.SINGLE_PUT_BYTES // 3 + 1))
    uri, absent = join(folder_uri, "a"), join(folder_uri, "absent")
    with FaultyProxy(server, rates={Fault.TORN_UPLOAD: 1.0}) as proxy:
        lead_to(proxy.s3, monkeypatch)
        proxy.off()
        storage.put_bytes(uri, b"old")
        proxy.on()
        for call in (
            lambda: storage.put_bytes(uri, b"new" * 100_000),
            lambda: storage.create_bytes(absent, b"new" * 100_000),
            lambda: storage.put_file(uri, str(local)),
            lambda: storage.put_file(absent, str(local)),
        ):
            with pytest.raises(StorageUnreachable):
                call()
        proxy.off()
        assert storage.read_bytes(uri) == b"old"
        assert [file.name for file in storage.list_files(folder_uri)] == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [Fault.TORN_UPLOAD, Fault.LOST_ANSWER], ids=lambda fault: fault.name.lower()
)
def test_a_large_file_survives_faults_in_each_of_its_requests(
    fault: Fault, proxy: FaultyProxy, folder_uri: str, tmp_path: Path
) -> None:
    content = random.Random(5).randbytes(uploads.SINGLE_PUT_BYTES + 1234)
    (tmp_path / "large").write_bytes(content)
    proxy.fail_next(fault, times=4, method="PUT", target="partNumber=")
    if fault is Fault.LOST_ANSWER:
        proxy.fail_next(fault, method="POST", target="uploads")
        proxy.fail_next(fault, method="POST", target="uploadId=")  # done, but nobody heard of it
    uri = join(folder_uri, "large")
    storage.put_file(uri, str(tmp_path / "large"))
    assert proxy.num_waiting == 0
    assert storage.read_bytes(uri) == content


@pytest.mark.s3
@pytest.mark.slow
def test_a_server_killed_and_restarted_during_a_series_of_writes_has_all_of_them(
    ceph_server: CephServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_to(ceph_server.s3, monkeypatch)
    folder = ceph_server.s3.uri("test_storage_faults/restarted")
    written: list[str] = []

    def write(owner: int) -> None:
        for number in range(60):
            name = f"{owner}-{number:03}"
            assert storage.create_bytes(join(folder, name), name.encode() * 1000)
            written.append(name)

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(write, owner) for owner in range(4)]
        for wanted in (40, 120):
            while len(written) < wanted:
                assert not any(writer.done() and writer.exception() for writer in writers)
                time.sleep(0.01)
            ceph_server.kill_gateway()
            assert len(written) < 240, "killed after the last write"
            time.sleep(0.5)
            ceph_server.start_gateway()
        for writer in writers:
            writer.result()
    found = storage.list_files(folder)
    assert [file.name for file in found] == sorted(written)
    assert len(found) == 240
    for file in found[::20]:
        assert storage.read_bytes(file.uri) == file.name.encode() * 1000
