"""Where log lines go and what they may hold: stderr, one line a record, `key=value`, quiet unless asked.

Never a document's text: no module of docmill logs it, of a logged error only type and places are shown (the error's
text may quote the document), and of libraries nothing below INFO (s3fs logs the bytes that it sends). And never a
secret, which a library's message could carry: the values of the usual secret variables are blotted out of every line.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import time
import traceback
from typing import Any, TextIO

SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CLIENT_SECRET", "DAGSTER_PG_PASSWORD", "RAY_AUTH_TOKEN",
)  # fmt: skip
RETRIES = "docmill.data.retries"
SECONDS_BETWEEN_RETRY_LINES = 60.0
SHORTEST_SECRET = 6  # shorter values ("test") would blot out ordinary words
_PASSWORD_IN_URI = re.compile(r"(?<=://)([^/@:\s]+):[^/@\s]+@")


def without_secrets(text: str) -> str:
    """The same text with every known secret, and every password in a URI, replaced by `***`."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return _PASSWORD_IN_URI.sub(r"\1:***@", text)


def places(error: BaseException) -> str:
    """Where an error and what led to it were raised, as a traceback shows it, but without what the errors say."""
    lines: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        name = f"{type(cause).__module__}.{type(cause).__qualname__}"
        lines = [f"{name}, raised at\n", *traceback.format_tb(cause.__traceback__), *lines]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return without_secrets("".join(lines)).rstrip("\n")


class _LineFormatter(logging.Formatter):
    """`2026-11-22T07:30:00 INFO docmill.ops.partition_job job=demo partition=dt=2026-11-20 ...`, in one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.exc_text = None  # another handler may have left the whole traceback there
        return without_secrets(super().format(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return places(ei[1]) if ei[1] is not None else ""


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is now: a progress bar puts itself there, so that lines appear above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # not StreamHandler's, which would keep a stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _FewRetries(logging.Filter):
    """Lets a line about a retry of the storage layer through now and then: a store that is away gives hundreds."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != RETRIES:
            return True
        if time.monotonic() - self._shown < SECONDS_BETWEEN_RETRY_LINES:
            return False
        self._shown = time.monotonic()
        return True


def configure_logs(verbose: int = 0) -> None:
    """Send docmill's log to stderr: warnings; with 1 also what happens; with 2 all of it, and libraries' INFO."""
    handler = _StderrHandler()
    handler.setFormatter(_LineFormatter())
    if not verbose:
        handler.addFilter(_FewRetries())
    ours = logging.getLogger("docmill")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    # Python's warnings are about libraries' insides (torch and vLLM give a dozen): for those who ask.
    logging.captureWarnings(True)
    warned = logging.getLogger("py.warnings")
    warned.handlers, warned.propagate = [handler if verbose else logging.NullHandler()], False
    if verbose >= 2:
        everything = logging.getLogger()
        everything.addHandler(handler)
        everything.setLevel(logging.INFO)
