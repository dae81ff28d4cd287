"""The program of an engine's process: opens the engine it is told to, and passes requests in and completions out.

Started by `engine_process.EngineProcess` as `python -m docmill.engine.engine_host FD PARENT_PID`. It ends when its
parent does, when the parent closes the connection, or when the engine fails, and then says why if it still can.
Ctrl-C and SIGTERM are the parent's to act on: a whole process group or container gets them, and the parent still
wants the answers in flight.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import resource
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from docmill.engine.child_process import die_with
from docmill.engine.errors import EngineConfigError, EngineDied, EngineError
from docmill.engine.garbage import no_garbage_collection
from docmill.engine.out_of_memory import is_out_of_memory
from docmill.engine.process_messages import Answers, Beat, Died, Loaded, LoadFailed, Opening
from docmill.engine.types import Engine

BEAT_SECONDS = 1.0
WAIT_SECONDS = 60.0
GATHER_SECONDS = 0.1


class EngineHost:
    """One engine behind one connection. Three threads: this one takes completions, others read and beat."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._sending = threading.Lock()
        self._engine: Engine | None = None

    def run(self) -> NoReturn:
        """Serve until there is nobody to serve."""
        try:
            opening = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            _leave()
        threading.Thread(target=self._read, name="docmill-read", daemon=True).start()
        threading.Thread(target=self._beat, name="docmill-beat", daemon=True).start()
        try:
            self._engine = engine = _open(opening)
            self._send(Loaded(engine.info))
            while True:
                self.pass_on(engine)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            self._fail(error)

    def pass_on(self, engine: Engine) -> None:
        """Send what has finished: at once where the engine may soon want for requests, else a tenth of a second's.

        To be told of every step costs the parent as much as all else that it does, and on a CPU it takes the cores
        for it that the engine computes on.
        """
        taken = engine.completions(WAIT_SECONDS)
        most, deadline = engine.info.max_num_seqs, time.monotonic() + GATHER_SECONDS
        try:
            while taken and engine.num_in_flight > most > 4 * len(taken):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                taken += engine.completions(left)
        finally:  # also where the engine dies meanwhile
            if taken:
                self._send(Answers(taken, self._progress()))

    def _read(self) -> None:
        try:
            while (requests := pickle.loads(self._connection.recv_bytes())) is not None:
                assert self._engine is not None, "requests before the engine was loaded"
                for request in requests:
                    with contextlib.suppress(EngineDied):  # the thread that takes completions says so
                        self._engine.submit(request)
            if self._engine is not None:
                self._engine.close()
            _leave(0)
        except (EOFError, OSError):
            _leave()
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(error)

    def _beat(self) -> None:
        never = threading.Event()
        while not never.wait(BEAT_SECONDS):
            self._send(Answers([], self._progress()))

    def _progress(self) -> Beat:
        engine = self._engine
        if engine is None:
            return Beat(memory_bytes=_data_bytes())
        return Beat(engine.num_steps, engine.num_tokens, engine.busy_seconds, engine.load, _data_bytes())

    def _send(self, message: Any) -> None:
        try:
            content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
            with self._sending:
                self._connection.send_bytes(content)
        except OSError:
            _leave()

    def _fail(self, error: BaseException) -> NoReturn:
        """Say what happened and end. What is left of the engine is not worth closing."""
        if isinstance(error, EngineDied):
            kind = "out_of_memory" if is_out_of_memory(error) else error.kind
            self._send(Died(kind, error.message))
        elif is_out_of_memory(error):
            self._send(Died("out_of_memory", f"{type(error).__name__}: {error}"))
        elif isinstance(error, EngineError):
            self._send(LoadFailed(error))
        else:
            self._send(Died("died", f"{type(error).__name__}: {error}"))
        _leave()


def _open(opening: Opening) -> Engine:
    if opening.memory_bytes is not None:
        # RLIMIT_DATA counts what is private and writable, so torch's allocator and Python both meet it; RLIMIT_AS
        # would count the address space that CUDA and thread pools reserve and never use.
        resource.setrlimit(resource.RLIMIT_DATA, (opening.memory_bytes, opening.memory_bytes))
    sys.path += [folder for folder in opening.sys_path if folder not in sys.path]
    try:
        with no_garbage_collection():
            open_engine = pickle.loads(opening.open_engine)
    except (ImportError, AttributeError) as error:
        raise EngineConfigError(f"the engine's process cannot import it: {error}") from error
    with no_garbage_collection():
        engine: Engine = open_engine()
    gc.freeze()  # what is there now stays for as long as this process does
    return engine


def _data_bytes() -> int:
    with open("/proc/self/statm", "rb") as stream:
        return int(stream.read().split()[5]) * resource.getpagesize()


def _leave(status: int = 1) -> NoReturn:
    """At once, without what Python does at exit: threads of vLLM and CUDA may be anywhere."""
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Where the process begins."""
    connection, parent_pid = map(int, sys.argv[1:])
    die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    os.set_inheritable(connection, False)  # workers of a parallel model must not keep it open
    EngineHost(Connection(connection)).run()


if __name__ == "__main__":
    main()
