"""An engine that passes everything on and remembers it, and the day that the tests run."""

from __future__ import annotations

from collections.abc import Sequence

from docmill.engine.types import Completion, Engine, EngineInfo, Incident, Load, Request

DAY = "2026-11-20"


class Recorder:
    """Wraps an engine; `requests` and `answers` by request id."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.requests: dict[str, Request] = {}
        self.answers: dict[str, Completion] = {}

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def num_in_flight(self) -> int:
        return self._engine.num_in_flight

    @property
    def busy_seconds(self) -> float:
        return self._engine.busy_seconds

    @property
    def num_tokens(self) -> int:
        return self._engine.num_tokens

    @property
    def num_steps(self) -> int:
        return self._engine.num_steps

    @property
    def load(self) -> Load:
        return self._engine.load

    @property
    def incidents(self) -> Sequence[Incident]:
        return self._engine.incidents

    def submit(self, request: Request) -> None:
        self.requests[request.id] = request
        self._engine.submit(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        taken = self._engine.completions(timeout_seconds)
        self.answers |= {completion.request_id: completion for completion in taken}
        return taken

    def close(self) -> None:
        """The engine belongs to the session."""
