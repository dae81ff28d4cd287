"""Score any number of labels, of any number of tokens, with questions that each ask for the next token only.

vLLM gives exact log-probabilities of named next tokens without generating (`logprob_token_ids`) and without losing
the cached prefix. The labels form a trie; every node where labels part is one such question: "after the prompt and
this beginning of a label, how likely is each token that may come next?" Single-token labels are one question in all.
The score of a label is the sum over the questions on its path: the log-probability of the tokens that tell it from
the other labels. Tokens that no other label shares the way to are not asked: once the model has begun a label that
can only be this one, spelling it out says nothing more, and would count against long labels.

Where one label is the beginning of another ("account", "account access"), the shorter one would always win; then
every label is scored with the end of the turn behind it: any of the tokens that end one, which chat models have two of
(`<end_of_turn>` and `<eos>`) and use as they were trained to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Log-probabilities wanted for `next_token_ids` after the prompt followed by `prefix`."""

    prefix: TokenIds
    next_token_ids: TokenIds


class LabelTrie:
    """The questions that score a set of labels, and the scores from their answers. Same labels, same trie: reuse it."""

    def __init__(
        self, labels: Sequence[TokenIds], *, end_token_ids: Sequence[int], max_ids_per_question: int = 128
    ):
        if any(not label for label in labels):
            raise ValueError("a label has no tokens")
        if len(set(labels)) != len(labels):
            raise ValueError("two labels have the same tokens")
        self.labels = tuple(labels)
        self._ends: tuple[int, ...] = ()
        if any(a != b and b[: len(a)] == a for a in labels for b in labels):
            if not end_token_ids:
                raise ValueError("a label begins another, and the model has no token that ends a turn")
            self._ends = tuple(end_token_ids)
        children: dict[
            TokenIds, dict[int, None]
        ] = {}  # prefix -> its next tokens, in order of first appearance
        for label in self.labels:
            for length, token_id in enumerate(label):
                children.setdefault(label[:length], {})[token_id] = None
        self._asked = {prefix for prefix, ids in children.items() if len(ids) > 1}
        if self._ends:
            self._asked |= {label for label in self.labels if label in children}
            for label in self._asked & set(self.labels):
                children[label] |= dict.fromkeys(self._ends)
        self.questions = [
            Question(prefix, tuple(ids)[start : start + max_ids_per_question])
            for prefix, ids in children.items()
            if prefix in self._asked
            for start in range(0, len(ids), max_ids_per_question)
        ]

    def scores(self, logprobs: Mapping[TokenIds, Mapping[int, float]]) -> tuple[float, ...]:
        """Score of each label, in order. `logprobs[prefix][token]` are the questions' answers."""
        return tuple(
            sum(
                logprobs[label[:length]][token_id]
                for length, token_id in enumerate(label)
                if label[:length] in self._asked
            )
            + (self._ending(logprobs[label]) if self._ends and label in self._asked else 0.0)
            for label in self.labels
        )

    def _ending(self, logprobs: Mapping[int, float]) -> float:
        """Log-probability of any of the tokens that end a turn."""
        likeliest = max(logprobs[token_id] for token_id in self._ends)
        if likeliest == -math.inf:
            return likeliest
        return likeliest + math.log(sum(math.exp(logprobs[token_id] - likeliest) for token_id in self._ends))
