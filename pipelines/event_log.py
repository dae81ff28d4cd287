"""What a step tells Dagster while it runs and when it fails: progress now and then, errors with their remedy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterLogManager, Failure, MetadataValue

from docmill.ops.progress import Progress
from docmill.pipelines.exit_codes import error_message, is_expected
from docmill.pipelines.logs import places
from docmill.pipelines.progress_lines import progress_line

SECONDS_BETWEEN_LINES = 30.0  # every line is a row in Dagster's database; a night has a thousand of these


class EventLogProgress:
    """Writes a line into the run's log when the stage changes, and then every half minute."""

    def __init__(self, log: DagsterLogManager, *, seconds_between: float = SECONDS_BETWEEN_LINES):
        self._log, self._seconds_between = log, seconds_between
        self._stage, self._written = "", 0.0

    def __call__(self, progress: Progress) -> None:
        """Take one snapshot."""
        now = time.monotonic()
        if progress.stage == self._stage and now - self._written < self._seconds_between:
            return
        self._stage, self._written = progress.stage, now
        self._log.info(progress_line(progress))


class EventLogSteps:
    """The same for a work that has no documents to count: a line for each step."""

    def __init__(self, log: DagsterLogManager):
        self._log, self._what, self._written = log, "", 0.0

    def __call__(self, what: str, share: float) -> None:
        """`share` of the step is done, from 0 to 1."""
        now = time.monotonic()
        if what == self._what and now - self._written < SECONDS_BETWEEN_LINES:
            return
        self._what, self._written = what, now
        self._log.info(f"{what}: {share:.0%}" if share else what)


@contextmanager
def as_failures() -> Iterator[None]:
    """Turn errors into a step failure with cause and remedy; only what may work later is retried.

    Dagster keeps what it is given for good, and shows it to all: it gets the message without secrets, and the places
    without their messages, but never the error itself.
    """
    try:
        yield
    except Failure:
        raise
    except Exception as error:  # noqa: BLE001 - it is raised again, as a failure
        kind = type(error).__name__
        raise Failure(
            error_message(error)
            if is_expected(error)
            else f"unexpected {kind}; where is in the metadata, and `docmill run --debug` shows the rest",
            metadata={"error": kind, "places": MetadataValue.text(places(error))},
            allow_retries=bool(getattr(error, "retryable", False)),
        ) from None
