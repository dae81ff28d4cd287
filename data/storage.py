"""The one door to storage: URIs in, bytes and listings out, errors that say what to do. fsspec does the work.

`file://` and plain paths, `memory://` and `s3://` work out of the box; any other protocol works when its fsspec
package is installed (`gcsfs`, `adlfs`, ...). Credentials and endpoints come from the environment, as each store's own
tools read them (for S3: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...).

Every write is atomic: a reader sees the old file or the new one, whole. Object stores give that with one PUT; for
local files it is a hidden neighbour and a rename. Every call is tried again while the store does not answer or is
overloaded, for `DOCMILL_STORAGE_RETRY_SECONDS` seconds, and then raises `StorageUnreachable`.

Behind it: filesystems.py (drivers, timeouts), storage_errors.py, retries.py, conditional_writes.py, uploads.py,
inputs.py (reading), listings.py, deletions.py.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, cast

import fsspec

from docmill.data.conditional_writes import conditional_writes
from docmill.data.deletions import delete_files, delete_folder
from docmill.data.errors import StorageNotFound
from docmill.data.filesystems import is_local, is_memory, is_s3, open_filesystem
from docmill.data.inputs import RetriedInput
from docmill.data.layout import join
from docmill.data.listings import FoundFile, list_files, modified_seconds
from docmill.data.records import Shard
from docmill.data.retries import with_retries
from docmill.data.storage_errors import store_errors
from docmill.data.uploads import put_object, upload_file

__all__ = [
    "FoundFile",
    "check_reachable",
    "check_writable",
    "create_bytes",
    "delete",
    "delete_files",
    "delete_folder",
    "exists",
    "list_files",
    "list_folders",
    "list_shards",
    "modified",
    "open_filesystem",
    "open_input",
    "put_bytes",
    "put_file",
    "read_bytes",
    "read_versioned",
    "replace_bytes",
    "store_errors",
]

READ_BLOCK_BYTES = 4 << 20
FIRST_CONTACT_SECONDS = 10


def list_shards(folder_uri: str) -> list[Shard]:
    """Every `*.parquet` below a folder, sorted by name. Names starting with `.` or `_` are not data (hive's rule).

    An absent folder is an empty list: for a store without folders the two are the same. An absent bucket raises.
    """
    return [
        Shard(file.name, file.uri, file.num_bytes, file.version)
        for file in list_files(folder_uri)
        if file.name.endswith(".parquet")
        and not any(part.startswith((".", "_")) for part in file.name.split("/"))
    ]


def list_folders(folder_uri: str) -> list[str]:
    """Names of the folders directly below a folder, sorted; empty where it does not exist."""
    filesystem, root = open_filesystem(folder_uri)

    def ask() -> list[str]:
        try:
            entries = filesystem.ls(root, detail=True)
        except FileNotFoundError:
            return []
        return [entry["name"] for entry in entries if entry["type"] == "directory"]

    return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in with_retries(folder_uri, ask))


@contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """Open one file for reading at random positions; only the blocks that are read travel, each retried by itself."""
    filesystem, path = open_filesystem(uri)
    if is_memory(filesystem):  # its own streams are one object for all readers
        with io.BytesIO(read_bytes(uri)) as copy:
            yield copy
        return
    stream = with_retries(uri, lambda: filesystem.open(path, "rb", block_size=READ_BLOCK_BYTES))
    with store_errors(uri), RetriedInput(uri, stream) as retried:
        yield cast(BinaryIO, retried)


def read_bytes(uri: str) -> bytes:
    """A whole small file. Raises `StorageNotFound` where there is none."""
    filesystem, path = open_filesystem(uri)
    content: bytes = with_retries(uri, lambda: filesystem.cat_file(path))
    return content


def read_versioned(uri: str) -> tuple[bytes, str]:
    """A whole small file and its version, for `replace_bytes`. Raises `StorageNotFound` where there is none."""
    filesystem, path = open_filesystem(uri)
    return with_retries(uri, partial(conditional_writes(filesystem).read, path))


def exists(uri: str) -> bool:
    """Whether a file lies there. Raises where the store cannot be asked."""
    try:
        _info(uri)
        return True
    except StorageNotFound:
        return False


def modified(uri: str) -> float:
    """When the file was last written, in seconds since 1970 on the STORE's clock; many stores tell whole seconds.

    Raises `StorageNotFound` where there is none.
    """
    info = _info(uri)
    with store_errors(uri):
        return modified_seconds(info)


def put_bytes(uri: str, content: bytes) -> None:
    """Write one small file, atomically, over whatever lay there."""
    filesystem, path = open_filesystem(uri)
    if is_s3(filesystem):
        put_object(filesystem, uri, path, content)
        return

    def put() -> None:
        if is_local(filesystem):
            with _hidden_neighbour(path) as hidden:
                filesystem.pipe_file(hidden, content)
        else:
            filesystem.pipe_file(path, content)

    with_retries(uri, put)


def put_file(uri: str, local_path: str) -> None:
    """Upload one local file, atomically, over whatever lay there. The local file may be moved away."""
    filesystem, path = open_filesystem(uri)
    if is_s3(filesystem):
        with store_errors(uri):
            upload_file(filesystem, uri, path, local_path)
        return

    def put() -> None:
        if is_local(filesystem):
            with _hidden_neighbour(path) as hidden:
                filesystem.mv(local_path, hidden)  # across file systems this copies, which is not atomic
        else:
            filesystem.put_file(local_path, path)

    with_retries(uri, put)


def create_bytes(uri: str, content: bytes) -> bool:
    """Write one small file only if nothing lies there, atomically; False where something does.

    `content` must be the caller's alone (an owner's name, a random id): what lies there with equal content counts as
    written by this call, because an answer may be lost after the store has done the work. On S3 `If-None-Match: *`.
    """
    filesystem, path = open_filesystem(uri)
    return with_retries(uri, partial(conditional_writes(filesystem).create, path, content))


def replace_bytes(uri: str, content: bytes, *, version: str | None) -> bool:
    """Write one small file only if it still has the `version` that `read_versioned` gave; None: only if absent.

    False where another content lies there, or none. `content` must be the caller's alone, as for `create_bytes`; and
    where an answer was lost and another writer has already replaced what this call wrote, it is False too: a caller
    for whom that matters finds its mark in the content that lies there now. Such files are written only by these two
    functions, never by `put_bytes`. On S3 `If-Match`.
    """
    if version is None:
        return create_bytes(uri, content)
    filesystem, path = open_filesystem(uri)
    return with_retries(uri, partial(conditional_writes(filesystem).replace, path, content, version))


def delete(uri: str) -> None:
    """Remove one file; none there is fine."""
    delete_files([uri])


def check_reachable(uri: str) -> None:
    """Ask the store for the folder `uri`, so that a wrong key or a dead endpoint shows before any work is done.

    Tried for at most `FIRST_CONTACT_SECONDS`: somebody waits, and the likeliest cause is a mistyped endpoint.
    """
    filesystem, root = open_filesystem(uri)

    def ask() -> None:
        try:
            filesystem.ls(root, detail=False)
        except FileNotFoundError:
            _require_bucket(filesystem, root, uri)

    with_retries(uri, ask, at_most_seconds=FIRST_CONTACT_SECONDS)


def check_writable(folder_uri: str) -> None:
    """Write and remove a tiny file, so that a key that may only read shows before any work is paid for.

    Tried for no longer than `check_reachable` does.
    """
    probe = join(folder_uri, f".probe-{uuid.uuid4().hex}")
    filesystem, path = open_filesystem(probe)
    with_retries(probe, lambda: filesystem.pipe_file(path, b""), at_most_seconds=FIRST_CONTACT_SECONDS)
    delete(probe)


def _info(uri: str) -> dict[str, object]:
    filesystem, path = open_filesystem(uri)
    info: dict[str, object] = with_retries(uri, lambda: filesystem.info(path))
    return info


def _require_bucket(filesystem: fsspec.AbstractFileSystem, root: str, uri: str) -> None:
    if is_s3(filesystem):
        bucket = root.split("/", 1)[0]
        try:
            filesystem.call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError as error:
            raise StorageNotFound(uri, f"bucket {bucket!r} does not exist") from error


@contextmanager
def _hidden_neighbour(path: str) -> Iterator[str]:
    """A name in the same folder that no `*.parquet` glob matches. What is written there becomes `path`, or nothing."""
    folder, name = os.path.split(path)
    hidden = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        yield hidden
        os.replace(hidden, path)
    except BaseException:
        if os.path.exists(hidden):
            os.remove(hidden)
        raise
