"""Conditional writes: one winner, and no update lost, in every kind of store, also when answers get lost.

The races on Ceph's gateway are those that count; the other stores must behave the same way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from servers.ceph_server import CephServer
from servers.faulty_proxy import FaultyProxy
from servers.s3_server import S3Server

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import join

STORES = ["local", "memory", "moto", pytest.param("ceph", marks=pytest.mark.s3)]


@pytest.fixture(params=STORES)
def folder_uri(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An empty folder in each kind of store."""
    name = f"test_storage_conditional/{request.node.name}"
    match request.param:
        case "local":
            yield str(tmp_path)
            assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "nothing hidden"
            return
        case "memory":
            yield f"memory://{name}"
            storage.delete_folder(f"memory://{name}")
            return
        case "moto":
            server: S3Server = request.getfixturevalue("moto_server")
        case "ceph":
            ceph: CephServer = request.getfixturevalue("ceph_server")
            server = ceph.s3
    for variable, value in server.env().items():
        monkeypatch.setenv(variable, value)
    yield server.uri(name)


def at_once(num_threads: int, act: Callable[[int], bool]) -> list[bool]:
    """What `act(0)`, `act(1)`, ... return, all started at the same moment."""
    barrier = threading.Barrier(num_threads)

    def one(number: int) -> bool:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(one, range(num_threads)))


def add_own_marks(uri: str, owner: str, count: int) -> None:
    """Put `count` marks of one's own into a JSON list that others write, too, by compare and swap."""
    for number in range(count):
        mark = f"{owner}-{number}"
        while True:
            content, version = storage.read_versioned(uri)
            marks = json.loads(content)
            if mark in marks:
                break
            if storage.replace_bytes(uri, json.dumps([*marks, mark]).encode(), version=version):
                break


def test_of_eight_that_create_at_once_one_wins(folder_uri: str) -> None:
    for round_ in range(5):
        uri = join(folder_uri, "claims", f"{round_}.json")
        won = at_once(8, lambda number, uri=uri: storage.create_bytes(uri, f"owner {number}".encode()))  # type: ignore[misc]
        assert sum(won) == 1
        assert storage.read_bytes(uri) == f"owner {won.index(True)}".encode()


def test_what_lies_there_is_not_created_again(folder_uri: str) -> None:
    uri = join(folder_uri, "deep/er", "a.json")
    assert storage.create_bytes(uri, b"mine")
    assert not storage.create_bytes(uri, b"theirs")
    assert storage.create_bytes(uri, b"mine"), "equal content is one's own: the answer may have been lost"
    assert storage.read_bytes(uri) == b"mine"
    storage.delete(uri)
    assert storage.create_bytes(uri, b"theirs")


def test_a_file_is_replaced_only_at_the_version_that_was_read(folder_uri: str) -> None:
    uri = join(folder_uri, "lease.json")
    with pytest.raises(StorageNotFound):
        storage.read_versioned(uri)
    assert storage.replace_bytes(uri, b"one", version=None)
    assert not storage.replace_bytes(uri, b"other", version=None)
    content, first = storage.read_versioned(uri)
    assert content == b"one"
    assert storage.replace_bytes(uri, b"two", version=first)
    assert not storage.replace_bytes(uri, b"three", version=first)
    assert storage.read_versioned(uri)[0] == b"two"
    assert storage.read_versioned(uri)[1] != first
    storage.delete(uri)
    assert not storage.replace_bytes(uri, b"four", version=first), "a file that is gone has no version"
    assert not storage.exists(uri)


@pytest.mark.parametrize("kind", ["moto", pytest.param("ceph", marks=pytest.mark.s3)])
def test_a_replacement_is_one_request_once_the_store_is_known(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores differ in whether they want the version in quotes; only the first replacement has to find out."""
    server = request.getfixturevalue(f"{kind}_server")
    with FaultyProxy(server.s3 if kind == "ceph" else server) as proxy:
        for variable, value in proxy.s3.env().items():
            monkeypatch.setenv(variable, value)
        uri = proxy.s3.uri("test_storage_conditional/one_request")
        storage.put_bytes(uri, b"0")
        num_requests = []
        for number in range(1, 4):
            _, version = storage.read_versioned(uri)
            before = proxy.num_requests
            assert storage.replace_bytes(uri, str(number).encode(), version=version)
            num_requests.append(proxy.num_requests - before)
    assert num_requests[1:] == [1, 1], num_requests


def test_no_update_is_lost_among_eight_threads(folder_uri: str) -> None:
    uri = join(folder_uri, "marks.json")
    assert storage.create_bytes(uri, b"[]")
    at_once(8, lambda number: add_own_marks(uri, str(number), 20) is None)
    marks = json.loads(storage.read_bytes(uri))
    assert sorted(marks) == sorted(f"{owner}-{number}" for owner in range(8) for number in range(20))


def test_no_update_is_lost_among_processes_on_one_disk(tmp_path: Path) -> None:
    uri = f"{tmp_path}/marks.json"
    assert storage.create_bytes(uri, b"[]")
    program = (
        "import json, sys; from docmill.data import storage\n"
        "uri, owner = sys.argv[1:]\n"
        "for number in range(100):\n"
        "    done = False\n"
        "    while not done:\n"
        "        content, version = storage.read_versioned(uri)\n"
        "        marks = json.dumps([*json.loads(content), f'{owner}-{number}'])\n"
        "        done = storage.replace_bytes(uri, marks.encode(), version=version)\n"
    )
    owners = [subprocess.Popen([sys.executable, "-c", program, uri, str(owner)]) for owner in range(4)]
    try:
        assert [process.wait(timeout=120) for process in owners] == [0] * 4
    finally:
        for process in owners:
            process.kill()
            process.wait()
    marks = json.loads(storage.read_bytes(uri))
    assert sorted(marks) == sorted(f"{owner}-{number}" for owner in range(4) for number in range(100))
    assert [path.name for path in tmp_path.iterdir()] == ["marks.json"]


def test_a_local_file_that_is_created_is_never_seen_half(tmp_path: Path) -> None:
    """A reader that looks as often as it can sees nothing or all."""
    content, seen = b"x" * 5_000_000, set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for file in storage.list_files(str(tmp_path)):
                seen.add((file.name.split("-")[0], file.num_bytes))

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look)
        for number in range(20):
            assert storage.create_bytes(f"{tmp_path}/a-{number}", content + str(number % 10).encode())
        done.set()
        looking.result()
    assert seen == {("a", 5_000_001)}


class PlainStore(MemoryFileSystem):  # type: ignore[misc]
    """A store of another kind, as fsspec's drivers are: `pipe_file` knows mode="create", and no more than that."""

    protocol = "plainstore"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


def test_another_driver_creates_exclusively_and_says_once_that_it_cannot_replace_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fsspec.register_implementation("plainstore", PlainStore)
    uri = "plainstore://lease.json"
    assert storage.create_bytes(uri, b"one")
    assert not storage.create_bytes(uri, b"other")
    assert not caplog.records
    for content in (b"two", b"three"):
        _, version = storage.read_versioned(uri)
        assert storage.replace_bytes(uri, content, version=version)
        assert not storage.replace_bytes(uri, b"late", version=version)
    assert storage.read_bytes(uri) == b"three"
    (warning,) = caplog.records
    assert "driver=PlainStore cannot write conditionally" in warning.getMessage()
