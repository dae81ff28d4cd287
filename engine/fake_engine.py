"""An engine without a model: a real class with the whole `Engine` contract, for fast tests and dry runs.

Answers depend on the prompt alone, so two runs give the same. Completions come back out of order on purpose.
"""

from __future__ import annotations

import queue
import random
import time
import zlib
from array import array
from collections.abc import Callable, Mapping

from docmill.data.records import Usage
from docmill.engine.errors import EngineDied
from docmill.engine.types import Completion, EngineInfo, Incident, Load, Request, RequestError

NUM_OUTPUT_TOKENS = 8


def _never(_: Request) -> RequestError | None:
    return None


class FakeEngine:
    """Answers at once with tokens of the prompt. `fail` may give some requests an error instead.

    With `step_seconds` (`engine.extra` of a job) it is as slow as a real one: at most `max_num_seqs` answers in each
    step, and the more it may answer the faster it is, until `most_num_seqs` do not fit into its memory.
    """

    def __init__(
        self,
        *,
        model: str = "fake",
        max_model_len: int = 2048,
        fail: Callable[[Request], RequestError | None] = _never,
        seed: int = 0,
        max_num_seqs: int = 64,
        step_seconds: float = 0.0,
        most_num_seqs: int | None = None,
        hardware: str = "fake",
        tuned: Mapping[str, float] | None = None,
    ):
        if most_num_seqs is not None and max_num_seqs > most_num_seqs:
            raise EngineDied(f"{max_num_seqs} sequences do not fit", 0, "out_of_memory")
        self.info = EngineInfo(
            name="fake", model=model, model_fingerprint="fake", device="cpu", max_model_len=max_model_len,
            max_num_seqs=max_num_seqs, load_seconds=0.0, hardware=hardware, settings={"max_num_seqs": max_num_seqs},
            tuned=tuned or {},
        )  # fmt: skip
        self.busy_seconds = 0.0
        self.incidents: list[Incident] = []  # nothing happens to it
        self.num_steps = self.num_tokens = self._num_prompt_tokens = 0
        self._fail, self._step_seconds = fail, step_seconds
        self._most_a_step = max_num_seqs if step_seconds else None
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
        """All that is answered, or a step of it; shuffled."""
        taken: list[Completion] = []
        try:
            taken.append(self._done.get(timeout=timeout_seconds))
            while self._most_a_step is None or len(taken) < self._most_a_step:
                taken.append(self._done.get_nowait())
        except queue.Empty:
            pass
        if taken and self._step_seconds:
            time.sleep(self._step_seconds)
            self.busy_seconds += self._step_seconds
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
            start = zlib.crc32(prompt if isinstance(prompt, array) else array("i", prompt))
            logprobs = tuple(-1.0 - (start + position * 7) % 13 for position in range(len(request.labels)))
            return Completion(
                request.id, finish_reason="stop", usage=Usage(len(prompt), 0, 1), label_logprobs=logprobs
            )
        num_output_tokens = min(NUM_OUTPUT_TOKENS, request.sampling.max_tokens)
        start = len(prompt) // 3
        token_ids = tuple(prompt[start : start + num_output_tokens])
        return Completion(request.id, token_ids, "stop", Usage(len(prompt), 0, len(token_ids)))
