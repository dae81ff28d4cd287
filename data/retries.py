"""Storage calls are tried again, with growing, random pauses, until they work or the configured time is up.

`storage.py` sends every call through here; tenacity does the waiting. Only what may work later is tried again
(`StorageUnreachable`). The drivers below do not retry on their own (see filesystems.py): retries of retries of retries
would hold a call for hours.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_random_exponential

from docmill.data.errors import StorageSettingError, StorageUnreachable
from docmill.data.storage_errors import store_errors

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = "DOCMILL_STORAGE_RETRY_SECONDS"
DEFAULT_RETRY_SECONDS = 120.0  # a gateway restarts and a throttled prefix recovers within it

# The pause after the n-th failure is random below 0.2 x 2^n seconds and below 8: many workers that failed together
# do not come back together.
_PAUSE = wait_random_exponential(multiplier=0.2, max=8)


def retry_seconds() -> float:
    """For how long a call is tried again, from the environment; 0 means never. The only place that reads it."""
    text = os.environ.get(RETRY_SECONDS, "").strip()
    if not text:
        return DEFAULT_RETRY_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise StorageSettingError(
            f"{RETRY_SECONDS} is {text!r}, expected a number of seconds from 0 (never try again) up; "
            f"leave it unset for {DEFAULT_RETRY_SECONDS:.0f}"
        )
    return seconds


def with_retries(uri: str, call: Callable[[], T], *, at_most_seconds: float = math.inf) -> T:
    """What `call` returns. Raises a `StorageError`; one that is retryable only after the configured time.

    `at_most_seconds` is for a user who waits for the answer before anything is under way.
    """
    limit = min(retry_seconds(), at_most_seconds)

    def once() -> T:
        with store_errors(uri):
            return call()

    def pause(state: RetryCallState) -> float:
        return min(_PAUSE(state), max(0.0, limit - (state.seconds_since_start or 0.0)))

    retrying = Retrying(
        retry=retry_if_exception_type(StorageUnreachable),
        stop=stop_after_delay(limit),
        wait=pause,
        before_sleep=lambda state: _log_retry(uri, state),
        retry_error_callback=lambda state: _give_up(uri, state),
    )
    return retrying(once)


def _log_retry(uri: str, state: RetryCallState) -> None:
    log.warning(
        "storage retry uri=%s attempt=%d reason=%s pause_seconds=%.1f",
        uri, state.attempt_number, _error(state).reason, state.upcoming_sleep,
    )  # fmt: skip


def _give_up(uri: str, state: RetryCallState) -> NoReturn:
    error = _error(state)
    times = "once" if state.attempt_number == 1 else f"{state.attempt_number} times"
    tried = f"Tried {times} for {state.seconds_since_start:.0f} s ({RETRY_SECONDS})"
    raise StorageUnreachable(uri, f"{error.message}. {tried}", reason=error.reason) from error


def _error(state: RetryCallState) -> StorageUnreachable:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, StorageUnreachable)
    return error
