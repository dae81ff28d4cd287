"""Large files go to S3 in parts, each tried again by itself: one torn part costs a part, not the file.

The object appears, whole, when the last request (complete) is done; before that nobody sees anything of it.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import fsspec

from docmill.data.errors import StorageNotFound, StorageUnreachable
from docmill.data.filesystems import upload_seconds
from docmill.data.retries import with_retries

SINGLE_PUT_BYTES = 32 << 20
PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # S3's own limit
NUM_CONNECTIONS = 4


def upload_file(filesystem: fsspec.AbstractFileSystem, uri: str, path: str, local_path: str) -> None:
    """Put one local file there. A file of up to `SINGLE_PUT_BYTES` is one PUT."""
    num_bytes = os.path.getsize(local_path)
    if num_bytes <= SINGLE_PUT_BYTES:
        content = _read(local_path, 0, num_bytes)
        put_object(filesystem, uri, path, content)
    else:
        with_retries(uri, lambda: _upload_parts(filesystem, uri, path, local_path, num_bytes))


def put_object(filesystem: fsspec.AbstractFileSystem, uri: str, path: str, content: bytes) -> None:
    """One PUT, whatever the size."""
    bucket, key, _ = filesystem.split_path(path)
    put = partial(filesystem.call_s3, "put_object", Bucket=bucket, Key=key, Body=content)
    with_retries(uri, partial(put, timeout=upload_seconds(len(content))))


def _upload_parts(
    filesystem: fsspec.AbstractFileSystem, uri: str, path: str, local_path: str, num_bytes: int
) -> None:
    bucket, key, _ = filesystem.split_path(path)

    def ask(method: str, **parameters: Any) -> Any:
        return with_retries(uri, partial(filesystem.call_s3, method, Bucket=bucket, Key=key, **parameters))

    upload = {"UploadId": ask("create_multipart_upload")["UploadId"]}
    part_bytes = max(PART_BYTES, -(-num_bytes // MAX_PARTS))

    def put_part(number: int) -> dict[str, Any]:
        content = _read(local_path, (number - 1) * part_bytes, part_bytes)
        return {
            "PartNumber": number,
            "ETag": ask("upload_part", PartNumber=number, Body=content, **upload)["ETag"],
        }

    try:
        with ThreadPoolExecutor(NUM_CONNECTIONS, "docmill-upload") as threads:
            parts = list(threads.map(put_part, range(1, -(-num_bytes // part_bytes) + 1)))
        try:
            ask("complete_multipart_upload", MultipartUpload={"Parts": parts}, **upload)
        except StorageNotFound as error:
            # It may have been completed, with the answer lost. Whether what lies there now is ours cannot be told.
            raise StorageUnreachable(
                uri, "the answer to a finished upload was lost", reason="NoSuchUpload"
            ) from error
    except BaseException:
        with contextlib.suppress(
            Exception
        ):  # what cannot be taken back is left to the bucket's lifecycle rule
            filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, **upload)
        raise


def _read(local_path: str, start: int, num_bytes: int) -> bytes:
    with open(local_path, "rb") as stream:
        stream.seek(start)
        return stream.read(num_bytes)
