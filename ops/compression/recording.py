"""An engine that remembers what it was asked and what it answered: the sequences that a model is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence

from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.types import Completion, Engine, EngineInfo, Incident, Load, Request


class RecordingEngine:
    """Passes everything on to another engine, which stays the caller's."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._asked: dict[str, Request] = {}
        self.sequences: list[AskedSequence] = []

    def submit(self, request: Request) -> None:
        """As the engine's own."""
        self._asked[request.id] = request
        self._engine.submit(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """As the engine's own; answered requests are kept."""
        found = self._engine.completions(timeout_seconds)
        for completion in found:
            request = self._asked.pop(completion.request_id)
            answer = _answer(request, completion)
            if answer:
                prompt = tuple(request.prompt_token_ids)
                self.sequences.append(AskedSequence(prompt + answer, len(prompt)))
        return found

    @property
    def info(self) -> EngineInfo:
        """As the engine's own, and so are all below."""
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

    def close(self) -> None:
        self._engine.close()


def _answer(request: Request, completion: Completion) -> tuple[int, ...]:
    """What the model wrote, or the label that it finds most likely; nothing where the request failed."""
    if completion.error is not None:
        return ()
    if request.labels is None:
        return tuple(completion.token_ids)
    scores = completion.label_logprobs or ()
    return request.labels[max(range(len(scores)), key=scores.__getitem__)] if scores else ()
