"""What lies in a folder. `storage.py` passes these on.

Each page of an S3 listing is asked for again by itself when it fails: a folder of 100,000 files is a hundred pages,
and a listing that starts over at each failure might never end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import fsspec

from docmill.data.filesystems import is_local, is_s3, open_filesystem
from docmill.data.layout import join
from docmill.data.retries import with_retries

# Neighbours of local files that are being written; a killed process may leave one.
_UNFINISHED = (".tmp", ".lock")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file of a listing. `modified` is in seconds since 1970 on the store's clock, on some stores whole seconds.

    `version` changes when the file does; it is not the version that `replace_bytes` takes.
    """

    name: str  # relative to the folder
    uri: str
    num_bytes: int
    modified: float
    version: str


def list_files(folder_uri: str) -> list[FoundFile]:
    """Every file below a folder, sorted by name; none where there is no such folder. An absent bucket raises.

    What local writes have not finished is left out.
    """
    filesystem, root = open_filesystem(folder_uri)
    if is_s3(filesystem):
        entries = list(_s3_entries(filesystem, root, folder_uri))
    elif is_local(filesystem):
        entries = with_retries(folder_uri, lambda: list(_local_entries(root)))
    else:
        entries = with_retries(folder_uri, lambda: _other_entries(filesystem, root))
    found = [
        FoundFile(name, join(folder_uri, name), int(info["size"]), modified_seconds(info), _version(info))
        for name, info in entries
    ]
    return sorted(found, key=lambda file: file.name)


def modified_seconds(info: dict[str, Any]) -> float:
    """When a file was last written, from what a driver tells of it; drivers name it differently."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    raise OSError(f"the storage driver does not say when {info.get('name')} was written")


def _s3_entries(
    filesystem: fsspec.AbstractFileSystem, root: str, uri: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    bucket, key, _ = filesystem.split_path(root)
    prefix = f"{key.rstrip('/')}/" if key else ""
    more: dict[str, str] = {}
    while True:
        ask = partial(filesystem.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        page: dict[str, Any] = with_retries(uri, ask)
        for entry in page.get("Contents", []):
            if not entry["Key"].endswith("/"):  # a folder, as some tools mark it
                yield entry["Key"][len(prefix) :], {**entry, "size": entry["Size"]}
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _local_entries(root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Not by fsspec: it takes a folder for absent when one of its files vanishes while it is listed."""
    for folder, _, names in os.walk(root, onerror=_raise_unless_absent, followlinks=True):
        for name in names:
            if name.startswith(".") and name.endswith(_UNFINISHED):
                continue
            path = os.path.join(folder, name)
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                continue
            yield os.path.relpath(path, root), {"size": stat.st_size, "mtime": stat.st_mtime}


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _other_entries(filesystem: fsspec.AbstractFileSystem, root: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        found = filesystem.find(root, detail=True)
    except FileNotFoundError:
        return []
    return [(path[len(root) :].strip("/"), info) for path, info in found.items() if path != root]


def _version(info: dict[str, Any]) -> str:
    tag = info.get("ETag") or info.get("etag")
    return str(tag or f"{info['size']}-{info.get('mtime', info.get('created'))}").strip('"')
