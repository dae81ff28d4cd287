"""The door to storage: what is put is there whole, what is not data is not listed, and failures say what to do.

What needs authentication is in tests/end_to_end/test_storage_s3.py, on the real server.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers.s3_server import S3Server, free_port

from docmill.data import storage
from docmill.data.errors import (
    StorageDenied,
    StorageError,
    StorageNotFound,
    StorageUnreachable,
    StorageUnsupported,
)
from docmill.data.layout import join
from docmill.data.retries import RETRY_SECONDS


@pytest.fixture(params=["plain path", "file", "memory", "s3"])
def folder_uri(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An empty folder in each kind of store that works out of the box."""
    match request.param:
        case "plain path":
            yield str(tmp_path)
        case "file":
            yield f"file://{tmp_path}"
        case "memory":
            filesystem, root = storage.open_filesystem("memory://test_storage")
            yield "memory://test_storage"
            if filesystem.exists(root):
                filesystem.rm(root, recursive=True)
        case "s3":
            server: S3Server = request.getfixturevalue("moto_server")
            for name, value in server.env().items():
                monkeypatch.setenv(name, value)
            yield server.uri(f"test_storage/{request.node.name}")


def test_what_was_put_is_read_replaced_and_deleted(folder_uri: str) -> None:
    uri = join(folder_uri, "deep/er", "a.json")
    storage.put_bytes(uri, b"one")
    assert storage.read_bytes(uri) == b"one"
    storage.put_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.exists(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    storage.delete(uri)  # none there is fine
    storage.put_bytes(join(folder_uri, "b"), b"")
    assert storage.read_bytes(join(folder_uri, "b")) == b""


def test_a_file_put_in_place_replaces_the_one_before(folder_uri: str, tmp_path: Path) -> None:
    uri = join(folder_uri, "out", "a.parquet")
    for content in (b"one" * 1000, b"two"):
        local = tmp_path / "local"
        local.write_bytes(content)
        storage.put_file(uri, str(local))
        with storage.open_input(uri) as stream:
            assert stream.read() == content


def test_shards_are_listed_by_name_without_what_is_hidden(folder_uri: str) -> None:
    for name in ("b.parquet", "a.parquet", "deep/c.parquet", "a.json", "_made_with.json", "_x/d.parquet",
                 ".a.parquet.123.tmp", ".e.parquet", "deep/_f.parquet", "g.parquet.crc"):  # fmt: skip
        storage.put_bytes(join(folder_uri, "dt=1", name), b"12345")
    storage.put_bytes(join(folder_uri, "dt=10", "other_day.parquet"), b"")

    shards = storage.list_shards(join(folder_uri, "dt=1"))

    assert [shard.name for shard in shards] == ["a.parquet", "b.parquet", "deep/c.parquet"]
    assert [shard.uri for shard in shards] == [join(folder_uri, "dt=1", shard.name) for shard in shards]
    assert [shard.num_bytes for shard in shards] == [5, 5, 5]
    assert storage.list_shards(join(folder_uri, "dt=2")) == []


def test_the_version_of_a_shard_changes_when_the_file_does(folder_uri: str) -> None:
    uri = join(folder_uri, "day", "a.parquet")
    storage.put_bytes(uri, b"one")
    first = storage.list_shards(join(folder_uri, "day"))[0].version
    assert storage.list_shards(join(folder_uri, "day"))[0].version == first
    storage.put_bytes(uri, b"two")
    assert storage.list_shards(join(folder_uri, "day"))[0].version != first


def test_files_are_listed_with_size_and_time(folder_uri: str) -> None:
    names = ["b.parquet", "a.json", "deep/er/c", "_x/d", ".hidden"]
    before = time.time()
    for name in names:
        storage.put_bytes(join(folder_uri, "here", name), name.encode())
    after = time.time()
    storage.put_bytes(join(folder_uri, "hereafter"), b"beside the folder, not in it")

    found = storage.list_files(join(folder_uri, "here"))

    assert [file.name for file in found] == sorted(names)
    assert [file.uri for file in found] == [join(folder_uri, "here", name) for name in sorted(names)]
    assert [file.num_bytes for file in found] == [len(name) for name in sorted(names)]
    for file in found:
        # S3 gives whole seconds; every store here has this machine's clock.
        assert before - 1 <= file.modified <= after + 1
        assert abs(file.modified - storage.modified(file.uri)) <= 1
    assert storage.list_files(join(folder_uri, "absent")) == []
    with pytest.raises(StorageNotFound):
        storage.modified(join(folder_uri, "absent"))


def test_what_local_writes_have_not_finished_is_not_listed(tmp_path: Path) -> None:
    for name in (f".a.parquet.{'0' * 32}.tmp", ".a.parquet.lock", ".kept", "a.tmp", "a.lock"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in storage.list_files(str(tmp_path))] == [".kept", "a.lock", "a.tmp"]


def test_a_local_folder_is_listed_while_files_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "kept").write_bytes(b"")
    done = threading.Event()

    def come_and_go() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            storage.put_bytes(f"{tmp_path}/here/{number % 7}", b"")
            storage.delete(f"{tmp_path}/here/{number % 7}")

    with ThreadPoolExecutor(1) as threads:
        coming = threads.submit(come_and_go)
        try:
            for _ in range(300):
                assert "kept" in [file.name for file in storage.list_files(f"{tmp_path}/here")]
        finally:
            done.set()
        coming.result()


def test_a_listing_of_several_pages_is_whole(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    folder = moto_server.uri("test_storage/pages")
    with ThreadPoolExecutor(8) as threads:
        names = [f"{number:04}" for number in range(1005)]  # a page holds 1,000
        list(threads.map(lambda name: storage.put_bytes(join(folder, name), b""), names))
    assert [file.name for file in storage.list_files(folder)] == names
    storage.delete_folder(folder)
    assert storage.list_files(folder) == []


def test_many_files_and_a_folder_are_removed(folder_uri: str) -> None:
    names = ["a/1", "a/2", "a/deep/3", "ab/4", "b/5"]
    for name in names:
        storage.put_bytes(join(folder_uri, name), b"")
    storage.delete_files(join(folder_uri, name) for name in ("a/1", "absent/6", "b/5", "b/5"))
    assert [file.name for file in storage.list_files(folder_uri)] == ["a/2", "a/deep/3", "ab/4"]
    storage.delete_folder(join(folder_uri, "a"))
    storage.delete_folder(join(folder_uri, "a"))
    storage.delete_folder(join(folder_uri, "never/there"))
    storage.delete_files([])
    assert [file.name for file in storage.list_files(folder_uri)] == ["ab/4"]


def test_folders_are_listed_and_files_are_not(folder_uri: str) -> None:
    for name in ("dt=2/a.parquet", "dt=1/x/b.parquet", "c.parquet"):
        storage.put_bytes(join(folder_uri, name), b"")
    assert storage.list_folders(folder_uri) == ["dt=1", "dt=2"]
    assert storage.list_folders(join(folder_uri, "absent")) == []


def test_an_absent_file_is_named(folder_uri: str) -> None:
    uri = join(folder_uri, "absent.json")
    with pytest.raises(StorageNotFound, match="does not exist") as caught:
        storage.read_bytes(uri)
    assert caught.value.uri == uri
    assert str(caught.value).startswith(uri)
    assert not caught.value.retryable
    with pytest.raises(StorageNotFound), storage.open_input(uri):
        pass


def test_a_folder_that_is_not_there_yet_is_reachable(folder_uri: str) -> None:
    storage.check_reachable(join(folder_uri, "not/yet"))


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_replacing_local_files_leaves_no_other_file(tmp_path: Path, scheme: str) -> None:
    local = tmp_path / "spool"
    for content in (b"one", b"two"):
        local.write_bytes(content)
        storage.put_file(f"{scheme}{tmp_path}/out/a.parquet", str(local))
        storage.put_bytes(f"{scheme}{tmp_path}/out/b.json", content)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.parquet", "b.json"]
    assert (tmp_path / "out" / "a.parquet").read_bytes() == b"two"


def test_a_local_write_that_fails_leaves_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "out" / "a.parquet" / "inner").mkdir(parents=True)  # a folder is in the way
    (tmp_path / "spool").write_bytes(b"one")
    with pytest.raises(StorageError, match=r"a\.parquet"):
        storage.put_bytes(f"{tmp_path}/out/a.parquet", b"one")
    with pytest.raises(StorageError, match=r"a\.parquet"):
        storage.put_file(f"{tmp_path}/out/a.parquet", str(tmp_path / "spool"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.parquet"]


def test_what_was_there_stays_while_a_new_file_is_not_in_place(tmp_path: Path) -> None:
    storage.put_bytes(f"{tmp_path}/a.json", b"old")
    with pytest.raises(StorageError):
        storage.put_file(f"{tmp_path}/a.json", str(tmp_path / "no such file"))
    assert storage.read_bytes(f"{tmp_path}/a.json") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_unknown_protocol_says_what_to_install() -> None:
    with pytest.raises(StorageUnsupported, match=r"nosuch://bucket/a: no storage driver for 'nosuch'.*gcsfs"):
        storage.read_bytes("nosuch://bucket/a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_folder_that_forbids_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageDenied, match="access denied"):
        storage.put_bytes(f"{tmp_path}/a.json", b"one")


def test_local_messages_name_the_file_once_and_no_cloud(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFound) as caught:
        storage.read_bytes(f"{tmp_path}/absent")
    assert str(caught.value).count("absent") == 1
    assert "AWS" not in str(caught.value)


def test_a_missing_bucket_is_named(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    for ask in (storage.list_shards, storage.check_reachable, storage.check_writable):
        with pytest.raises(StorageNotFound, match="bucket 'nobodys-bucket' does not exist"):
            ask("s3://nobodys-bucket/docs/dt=1")


def test_asking_whether_a_folder_can_be_written_leaves_nothing_there(folder_uri: str) -> None:
    storage.check_writable(folder_uri)
    filesystem, root = storage.open_filesystem(folder_uri)
    assert not filesystem.exists(root) or filesystem.find(root) == []


def test_no_credentials_say_which_variables_to_set(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env().items():
        if "KEY" not in name:
            monkeypatch.setenv(name, value)
    with pytest.raises(StorageDenied, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.put_bytes(moto_server.uri("test_storage/a"), b"")


def test_a_closed_port_is_unreachable_within_half_a_minute(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint_url = f"http://127.0.0.1:{free_port()}"
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url)
    # By default a job waits two minutes for a store that restarts.
    monkeypatch.setenv(RETRY_SECONDS, "10")
    started = time.monotonic()
    with pytest.raises(
        StorageUnreachable, match=f"no answer from {endpoint_url}.*AWS_ENDPOINT_URL"
    ) as caught:
        storage.list_shards("s3://docmill/docs")
    assert time.monotonic() - started < 30
    assert caught.value.retryable
    assert moto_server.secret_key not in str(caught.value)


@pytest.mark.slow
def test_a_host_that_drops_every_packet_is_unreachable_within_half_a_minute(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener with a full queue: the kernel then ignores further connections, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        for name, value in moto_server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(StorageUnreachable):
            storage.check_reachable("s3://docmill/answers")
        seconds = time.monotonic() - started
        for client in waiting:
            client.close()
    assert seconds < 40, f"gave up after {seconds:.0f} s"
