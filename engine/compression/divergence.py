"""How far a changed model's next token is from the source's: mean KL divergence at the answers' positions.

    KL(source || changed) = sum over tokens t of  p(t) * (log p(t) - log q(t)),  in nats, mean over positions

Zero where both say the same. It sees a change of the distribution long before an answer changes, so that a few dozen
sequences tell layers apart which no count of right answers could.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.sequences import AskedSequence, Batch, batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_NUMBERS = 1 << 24  # log-probabilities that are in memory at once: 64 MiB, a few times over


class Reference:
    """What the source model says of the sequences, and the distance of others from it.

    It keeps the final hidden states at the answers' positions, [positions, hidden], from which the head makes the
    distributions anew: these would take a hundred times the memory.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, sequences: Sequence[AskedSequence]):
        if not sequences:
            raise UnfitError(
                "no sequences to measure on; expected some of the job's prompts with their answers"
            )
        self.batches = list(batches(sequences))
        self._head = model.get_output_embeddings().weight.detach().clone()
        self._hidden = [final_hidden(model, batch)[batch.answer_mask] for batch in self.batches]
        self.num_tokens = sum(len(hidden) for hidden in self._hidden)

    @torch.no_grad()
    def divergence(self, model: PreTrainedModel) -> float:
        """Of a model with the source's vocabulary, a mean over all answer tokens."""
        head = model.get_output_embeddings().weight
        total = 0.0
        for number, batch in enumerate(self.batches):
            total += self.batch_divergence(number, final_hidden(model, batch)[batch.answer_mask], head)
        return total / self.num_tokens

    def batch_divergence(self, number: int, hidden: Tensor, head: Tensor) -> float:
        """Sum over one batch's answer tokens. `hidden`: [positions, hidden], behind the last norm.

        Logits are float32 whatever the model is: those of 16 bits are rounded by more than a good layer changes them.
        """
        total, step = 0.0, max(1, HEAD_NUMBERS // len(head))
        own_head, head = self._head.float(), head.float()
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            expected = F.linear(self._hidden[number][rows].float(), own_head).log_softmax(-1)
            found = F.linear(hidden[rows].float(), head).log_softmax(-1)
            total += float(kl_sum(expected, found))
        return total


def finite(divergence: float, what: str) -> float:
    """The divergence of `what`. Raises `UnfitError` where it is none: no comparison would find it too large."""
    if not math.isfinite(divergence):
        raise UnfitError(
            f"the divergence of {what} from the source is {divergence}: one of the two overflows its numbers; "
            "take other formats, or a source in bfloat16"
        )
    return divergence


def kl_sum(expected: Tensor, found: Tensor) -> Tensor:
    """KL(expected || found), summed over all rows. Both: [rows, tokens], float32 log-probabilities.

    As `p (e^d - 1 - d)` with `d = log q - log p`, whose terms are of second order and add up to the same, since
    probabilities sum to one. `-p d` are of first order and cancel: their rounding errors would hide a good layer's
    divergence.
    """
    share, distance = expected.exp(), found - expected
    small = share * (distance.expm1() - distance)
    large = found.exp() - share - share * distance  # where e^d may overflow
    return torch.where(distance < 1, small, large).sum()


def final_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[sequences, tokens, hidden], behind the last norm."""
    inputs = {"input_ids": batch.token_ids, "attention_mask": batch.attention_mask}
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    hidden: Tensor = model.base_model(**on_device, use_cache=False).last_hidden_state
    return hidden
