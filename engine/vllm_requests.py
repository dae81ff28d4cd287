"""Our requests as vLLM's, and vLLM's outputs as our completions.

One request of ours is one of vLLM's, except label scores, which may be several (see `labels`). vLLM's ids are ours
with a number behind, so duplicates and retries never collide inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from docmill.data.records import NO_USAGE, Usage
from docmill.engine.labels import LabelTrie, Question, TokenIds
from docmill.engine.types import Completion, Request, RequestError

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

Part = tuple[str, list[int], Any]  # vLLM's id, prompt token ids, SamplingParams


@dataclass(slots=True)
class _InFlight:
    request: Request
    trie: LabelTrie | None
    num_outstanding: int
    usage: Usage = NO_USAGE
    logprobs: dict[TokenIds, dict[int, float]] = field(default_factory=dict)


class RequestTable:
    """The requests in flight. Used by the one thread that owns the engine."""

    def __init__(self, *, max_model_len: int, end_token_ids: Sequence[int]):
        self._max_model_len, self._end_token_ids = max_model_len, end_token_ids
        self._in_flight: dict[str, tuple[_InFlight, Question | None]] = {}  # by vLLM's id
        self._tries: dict[tuple[TokenIds, ...], LabelTrie] = {}
        self._num_ids = 0

    def __len__(self) -> int:
        return len(self._in_flight)

    def admit(self, request: Request) -> Iterator[Part]:
        """What to hand to vLLM for one request. Raises `ValueError` with the reason where it cannot be asked."""
        prompt = list(request.prompt_token_ids)
        if not prompt:
            raise ValueError("the prompt is empty")
        trie = self._trie(request.labels) if request.labels is not None else None
        longest = max((len(question.prefix) for question in trie.questions), default=0) if trie else 0
        if len(prompt) + longest >= self._max_model_len:
            raise PromptTooLong(
                f"{len(prompt) + longest} prompt tokens leave no room in {self._max_model_len}"
            )
        questions: list[Question | None] = [*trie.questions] if trie else [None]
        shared = _InFlight(request, trie, len(questions))
        for question in questions:
            self._num_ids += 1
            vllm_id = f"{request.id}#{self._num_ids}"
            self._in_flight[vllm_id] = (shared, question)
            if question is None:
                yield vllm_id, prompt, _sampling_params(request)
            else:
                yield vllm_id, prompt + list(question.prefix), _question_params(question)

    def forget(self, request: Request) -> bool:
        """Take back a request that vLLM refused. Returns whether it was still in flight."""
        found = [key for key, (shared, _) in self._in_flight.items() if shared.request is request]
        for vllm_id in found:
            del self._in_flight[vllm_id]
        return bool(found)

    def finish(self, output: RequestOutput) -> Completion | None:
        """The completion, once the last of its parts is there. None for a request that was forgotten meanwhile."""
        found = self._in_flight.pop(output.request_id, None)
        if found is None:
            return None
        shared, question = found
        answer = output.outputs[0]
        prompt_ids = output.prompt_token_ids or ()
        shared.usage += Usage(len(prompt_ids), output.num_cached_tokens or 0, len(answer.token_ids))
        shared.num_outstanding -= 1
        if answer.finish_reason not in ("stop", "length"):  # "error", "abort": vLLM gave this request up
            self.forget(shared.request)
            error = RequestError(
                "engine_error", f"vLLM ended the request with {answer.finish_reason!r}; see its log"
            )
            return Completion(shared.request.id, usage=shared.usage, error=error)
        if question is None:
            return Completion(shared.request.id, tuple(answer.token_ids), answer.finish_reason, shared.usage)
        if not answer.logprobs:
            self.forget(shared.request)
            error = RequestError("engine_error", "vLLM returned no log-probabilities for the labels")
            return Completion(shared.request.id, usage=shared.usage, error=error)
        first = answer.logprobs[0]
        known = shared.logprobs.setdefault(question.prefix, {})
        known.update({token_id: first[token_id].logprob for token_id in question.next_token_ids})
        if shared.num_outstanding:
            return None
        assert shared.trie is not None
        scores = shared.trie.scores(shared.logprobs)
        return Completion(shared.request.id, finish_reason="stop", usage=shared.usage, label_logprobs=scores)

    def _trie(self, labels: tuple[TokenIds, ...]) -> LabelTrie:
        if labels not in self._tries:
            self._tries[labels] = LabelTrie(labels, end_token_ids=self._end_token_ids)
        return self._tries[labels]


class PromptTooLong(ValueError):
    """The prompt leaves no room for an answer."""


def _sampling_params(request: Request) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        stop=list(sampling.stop) or None,
        structured_outputs=StructuredOutputsParams(json=sampling.json_schema)
        if sampling.json_schema
        else None,
        detokenize=bool(
            sampling.stop
        ),  # we decode ourselves, off the engine's thread; stop strings need text
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _question_params(question: Question) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=list(question.next_token_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
