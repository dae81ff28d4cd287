"""What documents will ask, counted without an engine: each task's dialogue is led with answers of the expected length.

The prompts are those of a run, so their tokens are exact. What the prefix cache will spare follows from their order:
requests about one chunk come one after the other and share all of it up to their instructions, in whole blocks. How
long the answers will be is a guess, see `answer_lengths`.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from docmill.engine.labels import LabelTrie
from docmill.engine.types import Completion
from docmill.ops.answer_lengths import AnswerLengths
from docmill.ops.chunking import Chunk
from docmill.ops.expected_steps import ExpectedRequest
from docmill.ops.prompts import Prompts
from docmill.ops.tasks.task import Ask, Dialogue, Labels, Task, TaskError

# What answers are made of where a task reads them: a word that stays one token when it is tokenised again.
FILLER = " and"


@dataclass
class Counted:
    """Of one task. Tokens are those of requests that an engine will answer."""

    requests: int = 0
    spared_requests: int = 0  # of them, that an equal request or an earlier run has answered
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them
    output_tokens: float = 0.0

    def add(self, other: Counted) -> None:
        """Count those too."""
        self.requests += other.requests
        self.spared_requests += other.spared_requests
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens


class DryRun:
    """Counts document by document. `block_tokens`: the prefix cache keeps whole blocks of so many tokens."""

    def __init__(
        self, tasks: Mapping[str, Task], prompts: Prompts, lengths: AnswerLengths, *, block_tokens: int
    ):
        self._tasks, self._prompts, self._lengths = tasks, prompts, lengths
        self.requests: list[ExpectedRequest] = []  # what an engine would answer, in order
        self._block_tokens = block_tokens
        self._filler = prompts.tokenizer.encode_data([FILLER])[0][-1]
        self._warm = False  # the frame before the first document is not in the cache yet

    def document(self, chunks: list[Chunk], *, spared: Collection[str] = ()) -> dict[str, Counted]:
        """What each task asks about one document, round after round.

        `spared`: tasks whose answers about the text are known, wherever the same prompt gives the same answer.
        """
        counted: dict[str, Counted] = defaultdict(Counted)
        asked = _Asked()
        open_dialogues: list[tuple[str, Dialogue, list[Ask]]] = []
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        for name in sorted(
            self._tasks, key=lambda name: -self._lengths.expected(name, num_tokens)
        ):  # as a run
            open_dialogues += self._round(name, self._tasks[name].ask(chunks, self._prompts), None)
        while open_dialogues:
            name, dialogue, asks = open_dialogues.pop(0)
            completions = [
                self._spared(ask, counted[name])
                if name in spared and ask.sampling.repeatable
                else self._answer(name, ask, asked, counted[name])
                for ask in asks
            ]
            open_dialogues += self._round(name, dialogue, completions)
        return counted

    def _round(
        self, name: str, dialogue: Dialogue, completions: list[Completion] | None
    ) -> list[tuple[str, Dialogue, list[Ask]]]:
        """The dialogue with its next round; nothing where it has ended."""
        try:
            asks = next(dialogue) if completions is None else dialogue.send(completions)
        except (StopIteration, TaskError):
            return []
        return [(name, dialogue, asks)]

    def _spared(self, ask: Ask, counted: Counted) -> Completion:
        counted.requests += 1
        counted.spared_requests += 1
        return _completion(ask, (self._filler,))

    def _answer(self, name: str, ask: Ask, asked: _Asked, counted: Counted) -> Completion:
        """Count one question, and answer it as long as it is expected to be answered."""
        frame = self._prompts.frame_of(ask.text, ask.instruction)
        num_tokens = frame.num_tokens + len(ask.token_ids)
        before = asked.about(ask.token_ids)
        if before:
            shared = len(frame.before) + len(ask.token_ids)
            shared += max(_common_prefix(frame.behind, other) for other in before)
        else:
            shared = len(frame.before) if self._warm else 0
        before.append(frame.behind)
        self._warm = True
        counted.requests += 1
        expected = min(self._lengths.expected(name, len(ask.token_ids)), float(ask.sampling.max_tokens))
        if ask.labels is None:
            self._count(name, counted, num_tokens, shared, expected)
            return _completion(ask, (self._filler,) * max(1, round(expected)))
        for prefix in _question_prefixes(ask.labels):
            self._count(name, counted, num_tokens + len(prefix), shared, 1.0)
            shared = num_tokens
        return _completion(ask, ())

    def _count(self, name: str, counted: Counted, num_tokens: int, num_shared: int, expected: float) -> None:
        # At least one token is computed, or there would be nothing to draw the answer from.
        num_cached = min(num_shared, num_tokens - 1) // self._block_tokens * self._block_tokens
        counted.prompt_tokens += num_tokens
        counted.cached_tokens += num_cached
        counted.output_tokens += expected
        self.requests.append(ExpectedRequest(name, num_tokens - num_cached, num_cached, expected))


class _Asked:
    """What one document's chunks were asked: for each, what stood behind it in its prompts."""

    def __init__(self) -> None:
        # A chunk is known by the object that its tasks share; it is held, or another might get its identity.
        self._by_chunk: dict[int, tuple[Sequence[int], list[array[int]]]] = {}

    def about(self, token_ids: Sequence[int]) -> list[array[int]]:
        """The list of one chunk, to be added to."""
        return self._by_chunk.setdefault(id(token_ids), (token_ids, []))[1]


def _completion(ask: Ask, token_ids: tuple[int, ...]) -> Completion:
    scores = (0.0,) * len(ask.labels) if ask.labels is not None else None
    return Completion("", token_ids, "stop", label_logprobs=scores)


@lru_cache(maxsize=64)
def _question_prefixes(labels: Labels) -> list[tuple[int, ...]]:
    """What stands behind the prompt in each of the questions that score these labels."""
    return [question.prefix for question in LabelTrie(labels, end_token_ids=(0,)).questions]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
