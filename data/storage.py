"""The one door to storage: URIs in, bytes and listings out, errors that say what to do. fsspec does the work.

`file://` and plain paths, `memory://` and `s3://` work out of the box; any other protocol works when its fsspec
package is installed (`gcsfs`, `adlfs`, ...). Credentials and endpoints come from the environment, as each store's own
tools read them (for S3: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...).

Every write is atomic: a reader sees the old file or the new one, whole. Object stores give that with one PUT; for
local files it is a hidden neighbour and a rename.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from docmill.data.errors import (
    DataError,
    StorageDenied,
    StorageError,
    StorageNotFound,
    StorageUnreachable,
    StorageUnsupported,
)
from docmill.data.layout import join
from docmill.data.records import Shard

# Give up after seconds, not minutes, on a store that does not answer: a job that is run again beats one that hangs.
S3_CLIENT = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}
READ_BLOCK_BYTES = 4 << 20

DENIED_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "Forbidden", "ExpiredToken",
                "InvalidToken", "401", "Unauthorized"}  # fmt: skip
OVERLOADED_CODES = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "Throttling",
    "500",
    "503",
}
UNREACHABLE_ERRORS = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
                      "ServerDisconnectedError", "ClientOSError", "ClientConnectorError", "gaierror"}  # fmt: skip
NOT_FOUND_CODES = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem that serves `uri`, and the path inside it. Raises `StorageUnsupported` for an unknown protocol."""
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    options: dict[str, Any] = {}
    if protocol in ("s3", "s3a"):
        options = {"config_kwargs": S3_CLIENT}
    elif protocol in ("file", "local"):
        options = {"auto_mkdir": True}
    try:
        filesystem, path = url_to_fs(uri, use_listings_cache=False, **options)
    except (ValueError, ImportError) as error:
        raise StorageUnsupported(
            uri, f"no storage driver for {protocol!r} ({error}). docmill brings file, memory and s3; install the "
            "fsspec package of any other store (gcsfs for gs://, adlfs for az://)"
        ) from error  # fmt: skip
    return filesystem, path


def list_shards(folder_uri: str) -> list[Shard]:
    """Every `*.parquet` below a folder, sorted by name. Names starting with `.` or `_` are not data (hive's rule).

    An absent folder is an empty list: for a store without folders the two are the same. An absent bucket raises.
    """
    filesystem, root = open_filesystem(folder_uri)
    with store_errors(folder_uri):
        try:
            found = filesystem.find(root, detail=True)
        except FileNotFoundError:
            # s3fs says this of an absent bucket and of an absent prefix alike; only the first is the user's mistake.
            _require_bucket(filesystem, root, folder_uri)
            found = {}
        if not found:
            _require_bucket(filesystem, root, folder_uri)
    shards = []
    for path, info in found.items():
        name = path[len(root) :].strip("/") if path.startswith(root) else path
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if name.endswith(".parquet") and not hidden:
            version = (
                info.get("ETag")
                or info.get("etag")
                or f"{info['size']}-{info.get('mtime', info.get('created'))}"
            )
            shards.append(Shard(name, join(folder_uri, name), int(info["size"]), str(version).strip('"')))
    return sorted(shards, key=lambda shard: shard.name)


def list_folders(folder_uri: str) -> list[str]:
    """Names of the folders directly below a folder, sorted; empty where it does not exist."""
    filesystem, root = open_filesystem(folder_uri)
    with store_errors(folder_uri):
        try:
            entries = filesystem.ls(root, detail=True)
        except FileNotFoundError:
            return []
    return sorted(
        entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"
    )


@contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """Open one file for reading at random positions; only the blocks that are read travel."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri), filesystem.open(path, "rb", block_size=READ_BLOCK_BYTES) as stream:
        yield stream


def read_bytes(uri: str) -> bytes:
    """A whole small file. Raises `StorageNotFound` where there is none."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        content: bytes = filesystem.cat_file(path)
        return content


def exists(uri: str) -> bool:
    """Whether a file lies there. Raises where the store cannot be asked."""
    try:
        filesystem, path = open_filesystem(uri)
        with store_errors(uri):
            filesystem.info(path)
        return True
    except StorageNotFound:
        return False


def put_bytes(uri: str, content: bytes) -> None:
    """Write one small file, atomically, over whatever lay there."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if _is_local(filesystem):
            with _hidden_neighbour(path) as hidden:
                filesystem.pipe_file(hidden, content)
        else:
            filesystem.pipe_file(path, content)


def put_file(uri: str, local_path: str) -> None:
    """Upload one local file, atomically, over whatever lay there. The local file may be moved away."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        if _is_local(filesystem):
            with _hidden_neighbour(path) as hidden:
                filesystem.mv(local_path, hidden)  # across file systems this copies, which is not atomic
        else:
            filesystem.put_file(local_path, path)


def delete(uri: str) -> None:
    """Remove one file; none there is fine."""
    filesystem, path = open_filesystem(uri)
    with store_errors(uri):
        try:
            filesystem.rm_file(path)
        except FileNotFoundError:
            return


def check_reachable(uri: str) -> None:
    """Ask the store for the folder `uri`, so that a wrong key or a dead endpoint shows before any work is done."""
    filesystem, root = open_filesystem(uri)
    with store_errors(uri):
        try:
            filesystem.ls(root, detail=False)
        except FileNotFoundError:
            _require_bucket(filesystem, root, uri)


def check_writable(folder_uri: str) -> None:
    """Write and remove a tiny file, so that a key that may only read shows before any work is paid for."""
    probe = join(folder_uri, f".probe-{uuid.uuid4().hex}")
    put_bytes(probe, b"")
    delete(probe)


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what a store's driver raises into a `StorageError` that names the URI, the cause and the remedy."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        translated = _translate(uri, error)
        if translated is None:
            raise
        raise translated from error


def _translate(uri: str, error: Exception) -> StorageError | None:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    codes = {
        str(getattr(link, "response", {}).get("Error", {}).get("Code")) for link in chain if _is_boto(link)
    }
    names = {type(link).__name__ for link in chain}
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    is_s3 = protocol in ("s3", "s3a")
    store = os.environ.get("AWS_ENDPOINT_URL", "the default endpoint") if is_s3 else f"{protocol} storage"
    if codes & DENIED_CODES or isinstance(error, PermissionError):
        code = ", ".join(sorted(codes - {"None"})) or type(error).__name__
        remedy = (
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, and that this key may use the bucket"
            if is_s3
            else "Check who may read and write there"
        )
        return StorageDenied(uri, f"access denied by {store} ({code}). {remedy}")
    if names & {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}:
        return StorageDenied(
            uri, "no credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
        )
    if codes & NOT_FOUND_CODES or isinstance(error, FileNotFoundError):
        bucket = uri.split("://", 1)[-1].split("/", 1)[0]
        what = f"bucket {bucket!r} " if "NoSuchBucket" in codes else ""
        return StorageNotFound(uri, f"{what}does not exist in {store}")
    no_answer = any(isinstance(link, (ConnectionError, TimeoutError)) for link in chain)
    if no_answer or codes & OVERLOADED_CODES or names & UNREACHABLE_ERRORS:
        why = ", ".join(sorted(codes - {"None"})) or type(error).__name__
        return StorageUnreachable(
            uri, f"no answer from {store} ({why}). Check AWS_ENDPOINT_URL, the network, and that the store runs"
        )  # fmt: skip
    if isinstance(error, OSError) or any(map(_is_boto, chain)):
        return StorageError(uri, f"{type(error).__name__}: {error}")
    return None


def _is_boto(error: BaseException) -> bool:
    return type(error).__module__.startswith("botocore")


def _require_bucket(filesystem: fsspec.AbstractFileSystem, root: str, uri: str) -> None:
    if "s3" in _protocols(filesystem):
        bucket = root.split("/", 1)[0]
        try:
            filesystem.call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError as error:
            raise StorageNotFound(uri, f"bucket {bucket!r} does not exist") from error


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    return "file" in _protocols(filesystem)


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
