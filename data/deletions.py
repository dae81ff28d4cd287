"""Removing files; what is not there is fine. `storage.py` passes these on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from typing import Any

import fsspec

from docmill.data.conditional_writes import locked
from docmill.data.errors import StorageDenied, StorageError, StorageUnreachable
from docmill.data.filesystems import is_local, is_s3, open_filesystem
from docmill.data.layout import join
from docmill.data.listings import list_files
from docmill.data.retries import with_retries
from docmill.data.storage_errors import DENIED_CODES, OVERLOADED_CODES

MAX_KEYS_PER_REQUEST = 1000  # S3's own limit


def delete_files(uris: Iterable[str]) -> None:
    """Remove files, on S3 a thousand with one request. Those not there are fine."""
    pending: dict[str, list[str]] = {}  # by bucket
    for uri in uris:
        filesystem, path = open_filesystem(uri)
        if not is_s3(filesystem):
            with_retries(uri, lambda filesystem=filesystem, path=path: _delete_one(filesystem, path))  # type: ignore[misc]
            continue
        bucket, key, _ = filesystem.split_path(path)
        keys = pending.setdefault(bucket, [])
        keys.append(key)
        if len(keys) == MAX_KEYS_PER_REQUEST:
            _delete_keys(filesystem, bucket, pending.pop(bucket))
    for bucket, keys in pending.items():
        _delete_keys(open_filesystem(f"s3://{bucket}")[0], bucket, keys)


def delete_folder(folder_uri: str) -> None:
    """Remove a folder with all in it; an absent one is fine. What others write there meanwhile may stay."""
    filesystem, root = open_filesystem(folder_uri)
    if is_s3(filesystem):
        delete_files(file.uri for file in list_files(folder_uri))
    elif is_local(filesystem):
        with_retries(folder_uri, lambda: _delete_tree(root))
    else:
        with_retries(folder_uri, lambda: _delete_recursively(filesystem, root))


def _delete_one(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    try:
        if is_local(filesystem):
            with locked(path):  # so that a conditional write sees it before or after, not in between
                os.remove(path)
        else:
            filesystem.rm_file(path)
    except FileNotFoundError:
        return


def _delete_keys(filesystem: fsspec.AbstractFileSystem, bucket: str, keys: list[str]) -> None:
    def delete() -> None:
        if len(keys) == 1:
            filesystem.call_s3("delete_object", Bucket=bucket, Key=keys[0])
            return
        objects = [{"Key": key} for key in keys]
        answer: dict[str, Any] = filesystem.call_s3(
            "delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True}
        )
        for error in answer.get("Errors", []):
            # One request, an answer for each file: a failure of one is no error of the request's.
            uri, code = join(f"s3://{bucket}", error.get("Key", "")), str(error.get("Code"))
            if code in OVERLOADED_CODES:
                raise StorageUnreachable(uri, f"not deleted ({code})", reason=code)
            if code in DENIED_CODES:
                raise StorageDenied(uri, f"may not be deleted with this key ({code})")
            if code != "NoSuchKey":
                raise StorageError(uri, f"not deleted ({code}: {error.get('Message')})")

    with_retries(join(f"s3://{bucket}", keys[0]), delete)


def _delete_tree(root: str) -> None:
    for attempts_left in (2, 1, 0):
        try:
            shutil.rmtree(root)
            return
        except FileNotFoundError:
            if not os.path.exists(root):
                return  # else: somebody else removed one of its files at the same time
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not attempts_left:  # somebody wrote a file at the same time
                raise


def _delete_recursively(filesystem: fsspec.AbstractFileSystem, root: str) -> None:
    try:
        filesystem.rm(root, recursive=True)
    except FileNotFoundError:
        return
