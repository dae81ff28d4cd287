"""moto's server as a program, with one PUT at a time.

    python -P moto_program.py PORT   # -P: or `moto` would be moto.py beside this file

moto answers each request in a thread of its own, and compares a PUT's `If-Match` or `If-None-Match` with what lies
there before it writes, with nothing that keeps two of them apart: of two that come at once both may win, and one
update is lost. No store does that, so here the next PUT waits. May go when moto does both in one step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OnePutAtATime:
    """The WSGI application around moto's."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._putting = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return self._answer(environ, start_response)
        with self._putting:
            return self._answer(environ, start_response)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


if __name__ == "__main__":
    run_simple(
        "127.0.0.1",
        int(sys.argv[1]),
        OnePutAtATime(),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
