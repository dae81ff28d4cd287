"""An engine without a model: a real class with the whole `Engine` contract, for fast tests and dry runs.

Answers depend on the prompt alone, so two runs give the same. Completions come back out of order on purpose.
"""

from __future__ import annotations

import queue
import random
import zlib
from array import array
from collections.abc import Callable

from docmill.data.records import Usage
from docmill.engine.types import Completion, EngineInfo, Incident, Load, Request, RequestError

NUM_OUTPUT_TOKENS = 8


def _never(_: Request) -> RequestError | None:
    return None


class FakeEngine:
    """Answers at once with tokens of the prompt. `fail` may give some requests an error instead."""

    def __init__(
        self,
        *,
        model: str = "fake",
        max_model_len: int = 2048,
        fail: Callable[[Request], RequestError | None] = _never,
        seed: int = 0,
    ):
        self.info = EngineInfo(
            name="fake", model=model, model_fingerprint="fake", device="cpu", max_model_len=max_model_len,
            max_num_seqs=64, load_seconds=0.0,
        )  # fmt: skip
        self.busy_seconds = 0.0
        self.incidents: list[Incident] = []  # nothing happens to it
        self.num_steps = self.num_tokens = self._num_prompt_tokens = 0
        self._fail = fail
        self._random = random.Random(seed)
        self._done: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self._num_submitted = self._num_taken = 0

    @property
    def load(self) -> Load:
        """Never full: what it has is answered already."""
        return Load(
            num_prompt_tokens=self._num_prompt_tokens,
            num_output_tokens=self.num_tokens - self._num_prompt_tokens,
        )

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose completion has not been taken."""
        return self._num_submitted - self._num_taken

    def wait_until_loaded(self, timeout_seconds: float | None = None) -> bool:  # noqa: ARG002
        """There is nothing to load."""
        return True

    def submit(self, request: Request) -> None:
        """Answer the request; its completion waits to be taken."""
        self._num_submitted += 1
        completion = self._answer(request)
        self.num_steps += 1
        self._num_prompt_tokens += completion.usage.num_prompt_tokens
        self.num_tokens += completion.usage.num_prompt_tokens + completion.usage.num_output_tokens
        self._done.put(completion)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """All that is answered, shuffled."""
        taken: list[Completion] = []
        try:
            taken.append(self._done.get(timeout=timeout_seconds))
            while True:
                taken.append(self._done.get_nowait())
        except queue.Empty:
            pass
        self._num_taken += len(taken)
        self._random.shuffle(taken)
        return taken

    def close(self) -> None:
        """Nothing to give back."""

    def _answer(self, request: Request) -> Completion:
        prompt = request.prompt_token_ids
        if error := self._fail(request):
            return Completion(request.id, error=error)
        if len(prompt) >= self.info.max_model_len:
            message = f"{len(prompt)} tokens do not fit into {self.info.max_model_len}"
            return Completion(request.id, error=RequestError("prompt_too_long", message))
        if request.labels is not None:
            start = zlib.crc32(array("i", prompt))
            logprobs = tuple(-1.0 - (start + position * 7) % 13 for position in range(len(request.labels)))
            return Completion(
                request.id, finish_reason="stop", usage=Usage(len(prompt), 0, 1), label_logprobs=logprobs
            )
        num_output_tokens = min(NUM_OUTPUT_TOKENS, request.sampling.max_tokens)
        start = len(prompt) // 3
        token_ids = tuple(prompt[start : start + num_output_tokens])
        return Completion(request.id, token_ids, "stop", Usage(len(prompt), 0, len(token_ids)))
