"""Writes that succeed only if nobody else wrote first: the ground under claims, leases and the manifest.

One class per kind of store; `storage.py` picks one with `conditional_writes` and repeats its calls. A version stands
for a content, as S3's ETag does: a file that gets an earlier content back has its earlier version again. So whoever
writes puts something of his own into the content (an owner, a random id). For the same reason equal content counts as
written: an answer may be lost after the store did the work, and the client library below repeats a PUT without saying
so; then "there is something already" may mean ourselves.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import fsspec
import xxhash

from docmill.data.filesystems import is_local, is_memory, is_s3, upload_seconds
from docmill.data.storage_errors import http_status

log = logging.getLogger(__name__)

_MEMORY_LOCK = threading.Lock()
_WARNED: set[str] = set()
_BARE_ETAGS: set[str] = set()  # endpoints that compare ETags without their quotes


class ConditionalWrites(Protocol):
    """What each kind of store can do; paths are the filesystem's own."""

    def create(self, path: str, content: bytes) -> bool:
        """Write only if nothing lies there."""

    def read(self, path: str) -> tuple[bytes, str]:
        """Content and version; FileNotFoundError where there is none."""

    def replace(self, path: str, content: bytes, version: str) -> bool:
        """Write only if the file has this version."""


def conditional_writes(filesystem: fsspec.AbstractFileSystem) -> ConditionalWrites:
    """The way of this store."""
    if is_s3(filesystem):
        return S3Writes(filesystem)
    if is_local(filesystem):
        return LocalWrites(filesystem)
    if is_memory(filesystem):
        return MemoryWrites(filesystem)
    return OtherWrites(filesystem)


class S3Writes:
    """`If-None-Match: *` and `If-Match`, by single PUTs: some stores ignore conditions on multipart completion."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem):
        self._filesystem = filesystem

    def create(self, path: str, content: bytes) -> bool:
        if self._put(path, content, IfNoneMatch="*"):
            return True
        try:
            return self.read(path)[0] == content
        except FileNotFoundError:
            return False  # it was there a moment ago; whoever asks again gets it

    def read(self, path: str) -> tuple[bytes, str]:
        bucket, key, _ = self._filesystem.split_path(path)
        found: tuple[bytes, str] = fsspec.asyn.sync(self._filesystem.loop, self._get, bucket, key)
        return found

    async def _get(self, bucket: str, key: str) -> tuple[bytes, str]:
        answer = await self._filesystem._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return await body.read(), answer["ETag"]

    def replace(self, path: str, content: bytes, version: str) -> bool:
        # The standard's form has quotes (AWS); Ceph 16 compares without them and then never finds a match. Where the
        # answer is no although the version is still there, it was the form; the one that worked comes first next time.
        forms = [version, version.strip('"')]
        endpoint = str(self._filesystem.s3.meta.endpoint_url)
        for form in reversed(forms) if endpoint in _BARE_ETAGS else forms:
            if self._put(path, content, IfMatch=form):
                (_BARE_ETAGS.discard if form == version else _BARE_ETAGS.add)(endpoint)
                return True
            try:
                there, version_there = self.read(path)
            except FileNotFoundError:
                return False
            if there == content:
                return True
            if version_there != version:
                return False
        return False

    def _put(self, path: str, content: bytes, **condition: str) -> bool:
        bucket, key, _ = self._filesystem.split_path(path)
        try:
            timeout = upload_seconds(len(content))
            self._filesystem.call_s3(
                "put_object", Bucket=bucket, Key=key, Body=content, timeout=timeout, **condition
            )
        except OSError as error:
            if http_status(error) == 412 or (
                http_status(error) == 404
                and "IfMatch" in condition
                and "NoSuchBucket" not in repr(error.__cause__)
            ):
                return False
            raise
        return True


class LocalWrites:
    """A lock beside the file, held for the moment of the write; what is written appears whole."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem):
        self._filesystem = filesystem

    def create(self, path: str, content: bytes) -> bool:
        with _hidden_file(path, content) as hidden, locked(path):
            try:
                os.link(hidden, path)
            except FileExistsError:
                return self._holds(path, content)
            return True

    def read(self, path: str) -> tuple[bytes, str]:
        with open(path, "rb") as stream:
            content = stream.read()
        return content, _version(content)

    def replace(self, path: str, content: bytes, version: str) -> bool:
        with _hidden_file(path, content) as hidden, locked(path):
            try:
                there, version_there = self.read(path)
            except FileNotFoundError:
                return False
            if version_there != version:
                return there == content
            os.replace(hidden, path)
            return True

    def _holds(self, path: str, content: bytes) -> bool:
        try:
            return self.read(path)[0] == content
        except FileNotFoundError:
            return False


class MemoryWrites:
    """fsspec's store inside this process, under one lock."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem):
        self._filesystem = filesystem

    def create(self, path: str, content: bytes) -> bool:
        with _MEMORY_LOCK:
            if self._filesystem.exists(path):
                return bool(self._filesystem.cat_file(path) == content)
            self._filesystem.pipe_file(path, content)
            return True

    def read(self, path: str) -> tuple[bytes, str]:
        content: bytes = self._filesystem.cat_file(path)
        return content, _version(content)

    def replace(self, path: str, content: bytes, version: str) -> bool:
        with _MEMORY_LOCK:
            try:
                there, version_there = self.read(path)
            except FileNotFoundError:
                return False
            if version_there != version:
                return there == content
            self._filesystem.pipe_file(path, content)
            return True


class OtherWrites(MemoryWrites):
    """Any other driver. Creating is exclusive where its `pipe_file` knows mode="create" (gcsfs, adlfs).

    fsspec has no conditional replacement: the file is compared and then written, which leaves a moment in which
    another writer can be lost. Said once, in a warning.
    """

    def create(self, path: str, content: bytes) -> bool:
        try:
            self._filesystem.pipe_file(path, content, mode="create")
        except FileExistsError:
            return bool(self._filesystem.cat_file(path) == content)
        except TypeError:  # a driver older than that mode
            self._warn()
            return super().create(path, content)
        return True

    def replace(self, path: str, content: bytes, version: str) -> bool:
        self._warn()
        return super().replace(path, content, version)

    def _warn(self) -> None:
        name = type(self._filesystem).__name__
        if name not in _WARNED:
            _WARNED.add(name)
            log.warning(
                "storage driver=%s cannot write conditionally: do not run a partition twice at once", name
            )


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of one local file, against other threads and processes. Its folder exists; nothing of it stays.

    The lock file is removed by its holder, so whoever waited for it may hold one that is gone: he takes the new one.
    """
    folder, name = os.path.split(path)
    lock = os.path.join(folder, f".{name}.lock")
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(lock, handle):
                try:
                    yield
                finally:
                    os.unlink(lock)
                return
        finally:
            os.close(handle)


def _is_still(path: str, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _hidden_file(path: str, content: bytes) -> Iterator[str]:
    """The content under a name in the same folder that no reader looks at; gone afterwards unless moved."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    hidden = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(hidden, "xb") as stream:
            stream.write(content)
        yield hidden
    finally:
        try:
            os.unlink(hidden)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def _version(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
