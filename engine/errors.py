"""Errors of the engine.

EngineError
├── ModelError            the model cannot be used: absent, not a model, not supported
├── EngineConfigError     the engine refuses its settings, or what it needs is not installed
└── EngineDied            the engine stopped answering; its requests are lost and may be sent again (retryable)

What is wrong with one request never raises: it comes back as that request's `Completion.error`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docmill.engine.types import DeathKind


class EngineError(Exception):
    """Base of what the engine can raise. `retryable` says whether a new engine may succeed."""

    retryable = False


class ModelError(EngineError):
    """The model cannot be used. Carries `source`, the path or name that was asked for."""

    def __init__(self, source: str, message: str):
        super().__init__(f"model {source!r}: {message}")
        self.source, self._message = source, message

    def __reduce__(self) -> tuple[Callable[..., ModelError], tuple[str, str]]:
        """Errors cross processes; pickle would call the class with the finished message alone."""
        return ModelError, (self.source, self._message)


class ModelChanged(EngineError):
    """The model's files are others than those that a run began with; answers of both would mix."""

    def __init__(self, source: str):
        super().__init__(
            f"model {source!r} has changed since this run began: it was made anew, or its files were replaced. Run the "
            "job again: it begins with the new one"
        )
        self.source = source

    def __reduce__(self) -> tuple[type[ModelChanged], tuple[str]]:
        """Errors cross processes; pickle would call the class with the finished message."""
        return type(self), (self.source,)


class EngineConfigError(EngineError):
    """The engine refuses its settings, or a package it needs is not installed."""


class EngineDied(EngineError):
    """The engine failed as a whole. Carries `num_in_flight`, how many requests it took with it, and `kind`.

    `kind` is `died` (crashed or was killed), `hung` (no step for `engine.hang_seconds`) or `out_of_memory`.
    """

    retryable = True

    def __init__(self, message: str, num_in_flight: int, kind: DeathKind = "died"):
        how = {"died": "died", "hung": "hung", "out_of_memory": "ran out of memory"}[kind]
        super().__init__(f"the engine {how} with {num_in_flight} requests in flight: {message}")
        self.message, self.num_in_flight, self.kind = message, num_in_flight, kind

    def __reduce__(self) -> tuple[Callable[..., EngineDied], tuple[str, int, DeathKind]]:
        """As above."""
        return EngineDied, (self.message, self.num_in_flight, self.kind)
