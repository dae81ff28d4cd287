"""A hook that keeps what is posted to it, and answers as it is told: `hook.url`, `hook.messages`, `hook.status`."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0K3N-of-the-hook"


class Hook:
    """Runs in a thread of its own, at a free port of this machine."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        self.redirects_to = ""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                assert self.path == f"/services/{SECRET}"
                if hook.status == 200:
                    hook.messages.append(json.loads(body))
                self.send_response(hook.status)
                if hook.redirects_to:
                    self.send_header("Location", hook.redirects_to)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                raise AssertionError("a redirect was followed")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"

    def __enter__(self) -> "Hook":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
