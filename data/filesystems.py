"""fsspec's file systems as docmill uses them: one attempt per call, with timeouts; retries.py repeats it.

Only the modules behind `storage.py` use this.
"""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.core import url_to_fs

from docmill.data.errors import StorageUnsupported
from docmill.data.retries import retry_seconds

CONNECT_SECONDS = 5
MAX_SILENCE_SECONDS = 30.0
MIN_SILENCE_SECONDS = 5.0
MIN_UPLOAD_BYTES_PER_SECOND = 512 << 10


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem that serves `uri`, and the path inside it. Raises `StorageUnsupported` for an unknown protocol."""
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    options: dict[str, Any] = {}
    if protocol in ("s3", "s3a"):
        options = {"config_kwargs": _s3_client(silence_seconds())}
    elif protocol in ("file", "local"):
        options = {"auto_mkdir": True}
    try:
        filesystem, path = url_to_fs(uri, use_listings_cache=False, **options)
    except (ValueError, ImportError) as error:
        raise StorageUnsupported(
            uri, f"no storage driver for {protocol!r} ({error}). docmill brings file, memory and s3; install the "
            "fsspec package of any other store (gcsfs for gs://, adlfs for az://)"
        ) from error  # fmt: skip
    if is_s3(filesystem):
        filesystem.retries = 1
    return filesystem, path


def silence_seconds() -> float:
    """How long a store may keep a connection waiting for its next byte before it counts as lost.

    A quarter of the time for which a call is tried, so that a server that accepts and never answers gets several
    chances and still holds no call for much longer than that time.
    """
    limit = retry_seconds()
    return min(MAX_SILENCE_SECONDS, max(MIN_SILENCE_SECONDS, limit / 4)) if limit else MAX_SILENCE_SECONDS


def upload_seconds(num_bytes: int) -> float:
    """How long one request with a body may take: the HTTP client has a timeout for reading and none for writing."""
    return silence_seconds() + num_bytes / MIN_UPLOAD_BYTES_PER_SECOND


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether it is this machine's own disk (or a share that looks like it)."""
    return "file" in _protocols(filesystem)


def is_memory(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether it is fsspec's store inside this process."""
    return "memory" in _protocols(filesystem)


def is_s3(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether s3fs serves it."""
    return "s3" in _protocols(filesystem)


def _s3_client(silence: float) -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": silence,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
    }


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
