"""What a store's driver raises becomes a `StorageError` that names the URI, the cause and the remedy.

Called around every storage call (retries.py), and by whoever hands a driver's stream to Arrow.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from docmill.data.errors import (
    DataError,
    StorageDenied,
    StorageError,
    StorageNotFound,
    StorageUnreachable,
)

DENIED_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "Forbidden", "ExpiredToken",
                "InvalidToken", "401", "Unauthorized"}  # fmt: skip
# What a store says when it is too busy, or when a request came in only in part: the same request may work later.
OVERLOADED_CODES = set("""
    SlowDown ServiceUnavailable InternalError RequestTimeout Throttling ThrottlingException TooManyRequests
    OperationAborted ConditionalRequestConflict ConcurrentModification IncompleteBody BadDigest
    XAmzContentSHA256Mismatch BadGateway GatewayTimeout 408 409 429 500 502 503 504
""".split())  # fmt: skip
UNREACHABLE_ERRORS = set("""
    EndpointConnectionError ConnectTimeoutError ReadTimeoutError ConnectionClosedError HTTPClientError
    ProxyConnectionError IncompleteReadError ResponseStreamingError ResponseParserError
    ServerDisconnectedError ClientOSError ClientConnectorError ClientPayloadError IncompleteRead gaierror
""".split())  # fmt: skip
# Of this machine or of a network disk, and of no file: no handles or memory left, a disk's error, a server that moved.
PASSING_ERRNOS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ESTALE,
    errno.EAGAIN,
    errno.EBUSY,
}
NOT_FOUND_CODES = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}


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
    codes = {_code(link) for link in chain if _is_boto(link)}
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
    # Not by name alone: Ceph calls the loser of a race "UnknownError", with status 500.
    failed_inside = (http_status(error) or 0) >= 500 and http_status(error) != 501
    if no_answer or failed_inside or codes & OVERLOADED_CODES or names & UNREACHABLE_ERRORS:
        why = ", ".join(sorted(codes - {"None"})) or type(error).__name__
        remedy = "Check AWS_ENDPOINT_URL, the network" if is_s3 else "Check the network"
        return StorageUnreachable(
            uri, f"no answer from {store} ({why}). {remedy}, and that the store runs", reason=why
        )
    if isinstance(error, OSError) and error.errno in PASSING_ERRNOS:
        why = os.strerror(error.errno)
        return StorageUnreachable(
            uri, f"{type(error).__name__}: {error}. Run again when that has passed", reason=why
        )
    if isinstance(error, OSError) or any(map(_is_boto, chain)):
        return StorageError(uri, f"{type(error).__name__}: {error}")
    return None


def _code(error: BaseException) -> str:
    """What the store called it; "None" where the error came before any answer."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code"))


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status in botocore's error, which s3fs hides behind errors of its own; None where there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        error = error.__cause__
    return None


def _is_boto(error: BaseException) -> bool:
    return type(error).__module__.startswith("botocore")
