"""An engine that passes everything on and remembers it, and the day that the tests run."""

from __future__ import annotations

from docmill.engine.types import Completion, Engine, Request
from docmill.ops.compression.recording import RecordingEngine

DAY = "2026-11-20"


class Recorder(RecordingEngine):
    """`requests` and `answers` by request id."""

    def __init__(self, engine: Engine):
        super().__init__(engine)
        self.requests: dict[str, Request] = {}
        self.answers: dict[str, Completion] = {}

    def submit(self, request: Request) -> None:
        self.requests[request.id] = request
        super().submit(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        taken = super().completions(timeout_seconds)
        self.answers |= {completion.request_id: completion for completion in taken}
        return taken

    def close(self) -> None:
        """The engine belongs to the session."""
