"""What a model is measured and calibrated on: prompts of a job, each with the answer that the source model gave.

They are the very tokens that the model will see tonight: system prompt, document, instruction and its own answer, not
some text of the web. Positions whose next token is part of the answer are what a job's answers hang on; losses are
averaged over these alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 4096  # padded, of one forward pass


@dataclass(frozen=True, slots=True)
class AskedSequence:
    """A request's prompt and its answer, as token ids; the answer may be one label."""

    token_ids: tuple[int, ...]
    num_prompt_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.num_prompt_tokens < len(self.token_ids):
            raise ValueError(
                f"a sequence needs a prompt and an answer; {self.num_prompt_tokens} of {len(self.token_ids)} tokens "
                "are its prompt"
            )


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of about one length. All tensors are [sequences, tokens], padded at the end."""

    token_ids: Tensor  # int64
    attention_mask: Tensor  # int64, 1 where there is a token
    answer_mask: Tensor  # bool, True where the next token is one of the answer


def batches(sequences: Sequence[AskedSequence], *, max_tokens: int = BATCH_TOKENS) -> Iterator[Batch]:
    """All of them, longest first, as many at a time as fit `max_tokens`."""
    import torch

    left = sorted(sequences, key=lambda sequence: len(sequence.token_ids), reverse=True)
    while left:
        width = len(left[0].token_ids)
        taken, left = left[: max(1, max_tokens // width)], left[max(1, max_tokens // width) :]
        token_ids = torch.zeros(len(taken), width, dtype=torch.int64)
        attention_mask, answer_mask = (
            torch.zeros_like(token_ids),
            torch.zeros_like(token_ids, dtype=torch.bool),
        )
        for row, sequence in enumerate(taken):
            length = len(sequence.token_ids)
            token_ids[row, :length] = torch.tensor(sequence.token_ids)
            attention_mask[row, :length] = 1
            answer_mask[row, sequence.num_prompt_tokens - 1 : length - 1] = True
        yield Batch(token_ids, attention_mask, answer_mask)
