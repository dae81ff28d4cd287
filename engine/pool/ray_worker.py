"""The process that one worker on Ray is, and how an error of its work comes back to the driver whole.

Runs in an actor; `ray_pool` calls it. Nothing here imports Ray, so the driver's side needs no Ray to read it either.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from docmill.engine.pool.errors import WorkerError
from docmill.engine.pool.types import Work, WorkerContext

# What workers need of the runner's environment. VLLM_HOST_IP is a machine's own.
_VARIABLES = ("AWS_", "DOCMILL_", "HF_", "VLLM_")
_OF_ONE_MACHINE = {"VLLM_HOST_IP"}


class WorkerEnvironment(dict[str, str]):
    """Environment variables on their way to a worker. They hold secrets, so nothing shows their values.

    They go as an argument of the actor's first call: Ray writes a `runtime_env` with its variables to its logs.
    """

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> WorkerEnvironment:
        """Those that workers need."""
        return cls(
            (name, value)
            for name, value in environment.items()
            if name.startswith(_VARIABLES) and name not in _OF_ONE_MACHINE
        )

    def __repr__(self) -> str:
        return f"WorkerEnvironment({', '.join(sorted(self))})"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """An error that the work function raised, in a form that always crosses to another process."""

    message: str
    retryable: bool
    traceback: str
    pickled: bytes | None  # see `_pickled`

    @classmethod
    def of(cls, error: Exception) -> WorkerFailure:
        """From the error being handled."""
        return cls(
            message=f"{type(error).__name__}: {error}",
            retryable=bool(getattr(error, "retryable", False)),
            traceback=traceback.format_exc(),
            pickled=_pickled(error),
        )

    def error(self, worker: str) -> Exception:
        """The error itself, with the worker's traceback as a note, or a `WorkerError` that tells of it."""
        error: Exception = WorkerError(worker, self.message, retryable=self.retryable)
        if self.pickled is not None:
            with suppress(Exception):  # a class that is not here: the message still says what happened
                error = _unpickled(self.pickled)
        error.add_note(f"raised in worker {worker}:\n{self.traceback}")
        return error


def _pickled(error: Exception) -> bytes | None:
    """The error itself where that works; else its class, arguments and attributes; None where nothing does.

    Python pickles an error as a call of its class with `args`, which fails, or says something else, for every class
    whose `__init__` takes other arguments than the message that it makes of them.
    """
    for content in (error, (type(error), error.args, error.__dict__)):
        try:
            pickled = pickle.dumps(content)
            copy = _unpickled(pickled)
        except Exception:  # noqa: BLE001 - pickle raises whatever the attributes' own classes do
            continue
        if type(copy) is type(error) and str(copy) == str(error):
            return pickled
    return None


def _unpickled(pickled: bytes) -> Exception:
    content = pickle.loads(pickled)
    if isinstance(content, Exception):
        return content
    kind, arguments, attributes = content
    error: Exception = kind.__new__(kind, *arguments)  # no `__init__`: these are not its arguments
    error.__dict__.update(attributes)
    return error


class RayWorker:
    """The actor. Two threads: one for the work, one that `stop` gets through on."""

    def __init__(self, number: int, num_gpus: float) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{number}"
        self._context = WorkerContext(name, num_gpus, threading.Event())

    def start(self, environment: WorkerEnvironment) -> str:
        """The first call. Takes over the environment, before anything that reads it is imported; gives the name."""
        os.environ.update(environment)
        return self._context.name

    def run(self, work: Work) -> Any:
        """What the work function returns, or a `WorkerFailure`."""
        try:
            return work(self._context)
        except Exception as error:  # noqa: BLE001 - it is raised again on the driver's side
            return WorkerFailure.of(error)

    def stop(self) -> None:
        """The work sees `stopping` from now on."""
        self._context.stop.set()
