"""A server process of the tests: started with its log in a file, ended by its own pid, never outliving pytest."""

import ctypes
import http.client
import os
import signal
import subprocess
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)  # loaded before any fork


def _die_with_the_starter() -> None:
    """In the child, before it becomes the program: the kernel kills it when the thread that started it ends.

    Here and not by `setpriv --pdeathsig`: Popen returns when the program runs, so by then this is in force; a starter
    killed right after Popen used to outrun setpriv.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ServerProcess:
    """One long-running program. Start it from a thread that lives as long as it should (pytest's main thread)."""

    def __init__(
        self,
        *command: str,
        log: Path,
        env: dict[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._stop_signal = stop_signal
        self._name = command[0].rsplit("/", 1)[-1]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                user=user,  # before preexec_fn, whose request a change of the user would undo
                group=user,
                extra_groups=None if user is None else [],
                preexec_fn=_die_with_the_starter,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_alive(self) -> None:
        """Raises with the end of its log when the process has ended by itself."""
        if self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
            raise RuntimeError(
                f"{self._name} ended with status {self._process.returncode}; its log ends with:\n{tail}"
            )

    def wait_for_http(self, port: int, *, timeout_seconds: float = 60) -> None:
        """Returns as soon as any HTTP answer comes from the port."""
        end = time.monotonic() + timeout_seconds
        while True:
            self.check_alive()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                return
            except (OSError, http.client.HTTPException):
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"{self._name} gave no answer on port {port}; see {self.log}"
                    ) from None
                time.sleep(0.05)
            finally:
                connection.close()

    def kill(self) -> None:
        """kill -9, and gone when this returns."""
        self._process.kill()
        self._process.wait()

    def stop(self, *, timeout_seconds: float = 5) -> None:
        """SIGTERM or `stop_signal`, then kill -9 for one that takes longer. May be called again."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
