"""A POST to somebody's hook. Its address is a secret: it stands in no message, no log line and no traceback."""

from __future__ import annotations

import http.client
import json
import urllib.request
from typing import Any
from urllib.error import HTTPError, URLError

from pydantic import SecretStr

SECONDS = 10.0  # for a hook to answer


class HookFailed(Exception):
    """A hook did not take what it was sent. The message says how, and never where."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Somewhere else, the message would arrive as an empty GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(url: SecretStr, message: dict[str, Any]) -> None:
    """Send the message as JSON, by way of the environment's web proxy. Raises `HookFailed` for all but a 2xx."""
    problem = _problem(url, json.dumps(message).encode())
    if problem is not None:  # outside of any `except`: Dagster shows what an error came from
        raise HookFailed(f"the hook (on_failure.url) {problem}")


def _problem(url: SecretStr, body: bytes) -> str | None:
    try:
        request = urllib.request.Request(
            url.get_secret_value(), body, {"Content-Type": "application/json", "User-Agent": "docmill"}
        )
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS):
            return None
    except HTTPError as error:
        error.close()
        return f"answered {error.code}"
    except URLError as error:
        return f"cannot be reached: {_kind(error.reason)}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"cannot be reached: {_kind(error)}"


def _kind(error: object) -> str:
    """Without the error's own words, which may quote the address."""
    said = error.strerror if isinstance(error, OSError) and isinstance(error.errno, int) else None
    return said or type(error).__name__
