"""An engine that remembers what it was asked and what it answered: the sequences that a model is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.types import Completion, Engine, EngineInfo, Incident, Load, Request
from docmill.ops.tasks.task import Labels


class RecordingEngine:
    """Passes everything on to another engine, which stays the caller's."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._asked: dict[str, Request] = {}
        self._sequences: list[AskedSequence] = []
        self.labels: set[Labels] = set()  # of all requests, also those labels that were never an answer

    def submit(self, request: Request) -> None:
        """As the engine's own."""
        self._asked[request.id] = request
        if request.labels is not None:
            self.labels.add(request.labels)
        self._engine.submit(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """As the engine's own; answered requests are kept."""
        found = self._engine.completions(timeout_seconds)
        for completion in found:
            request = self._asked.pop(completion.request_id)
            answer = _answer(request, completion)
            if answer:
                prompt = tuple(request.prompt_token_ids)
                self._sequences.append(AskedSequence(prompt + answer, len(prompt)))
        return found

    @property
    def sequences(self) -> list[AskedSequence]:
        """All that were answered, the same in every run and mixed: any number from the start has some of every task."""
        return sorted(self._sequences, key=_shuffled)

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


def _shuffled(sequence: AskedSequence) -> tuple[int, tuple[int, ...]]:
    return xxhash.xxh3_64_intdigest(repr(sequence.token_ids).encode()), sequence.token_ids


def _answer(request: Request, completion: Completion) -> tuple[int, ...]:
    """What the model wrote, or the label that it finds most likely; nothing where the request failed."""
    if completion.error is not None:
        return ()
    if request.labels is None:
        return tuple(completion.token_ids)
    scores = completion.label_logprobs or ()
    return request.labels[max(range(len(scores)), key=scores.__getitem__)] if scores else ()
