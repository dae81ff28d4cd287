"""A short distillation on the job's own sequences: a pruned model learns to answer as its source does.

The loss is KL(source || pruned) of the next token, at the answers' positions (Hinton et al. 2015; after structured
pruning Muralidharan et al. 2024, Minitron, arXiv 2407.14679). A tenth of the sequences is held out: the weights that
are closest to the source there are kept, and learning ends when they have not come closer for a while. Embeddings and
head stay as they are, so that words which the sample does not have keep what the model knew of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from docmill.engine.compression.divergence import HEAD_NUMBERS, Reference, final_hidden
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.sequences import AskedSequence, Batch, batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 7  # of the order of batches
BLOCK = 8  # sequences; in order of their tokens, those about one document are neighbours and stay together
WARM_UP = 0.05  # share of the steps
# Adam moves each weight by about the rate, whatever the loss; near the source a divergence grows with the square of the
# distance. So the rate is this, times the root of the divergence to begin with, through the width (Yang et al. 2022).
RATE = 0.35
MAX_RATE = 0.15  # through the width
NUM_CHECKS = 8  # of the held-out sequences
LEARNING_BYTES = 16  # of a weight beside itself: its gradient, Adam's two moments, the best value so far
# Numbers of float32 that a token leaves behind in each layer for the way back, in widths of what they are as wide as;
# measured in Llama's and Qwen3's layers, which have less, with attention that keeps no [tokens, tokens].
HIDDEN_KEPT, HEADS_KEPT, FFN_KEPT = 10, 14, 4
HEAD_COPIES = 6  # of log-probabilities, at most HEAD_NUMBERS each: when measuring; learning has fewer
PATIENCE = 3  # checks without a better one, then it ends


@dataclass(frozen=True, slots=True)
class Healing:
    """What healing did. Divergences are nats a token, of the held-out sequences."""

    divergence_before: float
    divergence_after: float
    num_steps: int
    best_step: int  # whose weights were kept; 0: those from before
    curve: tuple[tuple[int, float], ...]  # step and divergence of every check


def held_out_tenth(
    sequences: Sequence[AskedSequence],
) -> tuple[list[AskedSequence], list[AskedSequence]]:
    """Nine tenths to learn from and one to judge by, with all that is asked about a document in one of the two."""
    ordered = sorted(sequences, key=lambda sequence: sequence.token_ids)
    parts: tuple[list[AskedSequence], list[AskedSequence]] = ([], [])
    for place, sequence in enumerate(ordered):
        parts[place // BLOCK % 10 == 1].append(sequence)
    return parts


class Lessons:
    """Sequences with what the source says of them. In memory: [answer tokens, hidden]."""

    @torch.no_grad()
    def __init__(self, source: PreTrainedModel, sequences: Sequence[AskedSequence]):
        self._lessons = [
            (batch, final_hidden(source, batch)[batch.answer_mask]) for batch in batches(sequences)
        ]

    def drawn(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Without end, in another order each time round: a batch, and the source's hidden states."""
        draw, lessons = Random(seed), list(self._lessons)
        while True:
            draw.shuffle(lessons)
            yield from lessons


def heal(
    model: PreTrainedModel,
    lessons: Lessons,
    reference: Reference,
    *,
    num_steps: int,
    tell: Callable[[float], None],
) -> Healing:
    """Teaches `model`, which is float32, in place. `reference`: the held-out sequences."""
    weights, head = _to_learn(model), model.get_output_embeddings().weight  # the source's, which stays
    curve = [(0, reference.divergence(model))]
    rate = min(RATE * math.sqrt(curve[0][1]), MAX_RATE) / model.config.hidden_size
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, foreach=False)
    best_step, best = 0, [weight.detach().clone() for weight in weights]
    for step, (batch, expected) in zip(range(1, num_steps + 1), lessons.drawn(SEED), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(step / num_steps)
        found = final_hidden(model, batch)[batch.answer_mask]
        found.backward(kl_gradient(expected, found, head))
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tell(step / num_steps)
        if step % max(1, num_steps // NUM_CHECKS) == 0 or step == num_steps:
            curve.append((step, reference.divergence(model)))
            if curve[-1][1] < min(found for _, found in curve[:-1]):
                best_step = step
                for kept, weight in zip(best, weights, strict=True):
                    kept.copy_(weight.detach())
            elif sum(at > best_step for at, _ in curve) >= PATIENCE:
                break
    with torch.no_grad():
        for weight, kept in zip(weights, best, strict=True):
            weight.copy_(kept)
    return Healing(curve[0][1], min(found for _, found in curve), curve[-1][0], best_step, tuple(curve))


@torch.no_grad()
def kl_gradient(expected: Tensor, found: Tensor, head: Tensor) -> Tensor:
    """Of the mean KL(source || pruned), by the pruned model's hidden states `found`, [positions, hidden].

    `expected`: the source's. With softmaxes p and q of the two it is (q - p) W through the positions, so that no
    log-probabilities are kept for autograd, and few at a time are there at all.
    """
    gradient, step = torch.empty_like(found), max(1, HEAD_NUMBERS // len(head))
    for start in range(0, len(found), step):
        rows = slice(start, start + step)
        surplus = F.linear(found[rows], head).float().softmax(-1)
        surplus -= F.linear(expected[rows], head).float().softmax(-1)
        gradient[rows] = surplus.to(head.dtype) @ head / len(found)
    return gradient


def check_room(model: PreTrainedModel, read: Sequence[Batch]) -> None:
    """Raises `UnfitError` where there is no memory to heal the model in; ask before it has been pruned for minutes."""
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = psutil.virtual_memory().available
    needed = needed_bytes(model, read)
    if needed > free:
        raise UnfitError(
            f"healing takes {needed / 2**30:.1f} GiB beside the model, and {free / 2**30:.1f} GiB are free: "
            "set heal_steps to 0, or take a larger machine"
        )


def needed_bytes(model: PreTrainedModel, read: Sequence[Batch]) -> int:
    """To heal it, as it is before pruning, on these batches: an estimate from above."""
    config = model.config
    heads = config.num_attention_heads * model.base_model.layers[0].self_attn.head_dim
    kept = HIDDEN_KEPT * config.hidden_size + HEADS_KEPT * heads + FFN_KEPT * config.intermediate_size
    num_tokens = max(batch.token_ids.numel() for batch in read)  # of one step
    num_answers = [int(batch.answer_mask.sum()) for batch in read]
    numbers = (
        num_tokens * kept * config.num_hidden_layers
        + HEAD_COPIES * min(max(num_answers) * config.vocab_size, max(HEAD_NUMBERS, config.vocab_size))
        + sum(num_answers) * config.hidden_size  # what the source said
        + config.vocab_size * config.hidden_size  # its head, which the held-out sequences are measured with
    )
    return LEARNING_BYTES * sum(weight.numel() for weight in _to_learn(model)) + 4 * numbers


def not_healed(model: PreTrainedModel, reference: Reference) -> Healing:
    """The figures of a model that is left as it was pruned."""
    found = reference.divergence(model)
    return Healing(found, found, 0, 0, ((0, found),))


def _to_learn(model: PreTrainedModel) -> list[nn.Parameter]:
    for weight in model.parameters():
        weight.requires_grad_(False)
    for part in (model.base_model.layers, model.base_model.norm):
        part.requires_grad_(True)
    return [weight for weight in model.parameters() if weight.requires_grad]


def _schedule(progress: float) -> float:
    """Share of the full rate: straight up while it warms up, then down along a cosine to a twentieth."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
