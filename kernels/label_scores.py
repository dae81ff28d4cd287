"""Log-probabilities of a request's labels from its last hidden state, without logits of the whole vocabulary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from docmill.kernels._checks import FLOATS, check_dtype, check_rows, check_size, check_vector
from docmill.kernels._load import declare
from docmill.kernels._ragged import rows_of

_ELEMENTS_AT_ONCE = 1 << 22  # of the rows that the twin gathers, as float32 twice: 32 MiB


def label_scores(
    hidden_states: Tensor,  # [num_tokens, hidden], bf16, fp16 or fp32, after the final norm; rows may be strided
    lm_head: Tensor,  # [vocab, hidden], dtype of hidden_states; rows may be strided
    label_token_ids: Tensor,  # [num_labels], int64: the labels of the first row, then those of the second, ...
    label_offsets: Tensor,  # [num_tokens + 1], int64, rising from 0 to num_labels: where each row's labels begin
) -> tuple[Tensor, Tensor]:
    """Score the labels of each row of hidden states.

    A label is one token. Log-probabilities are normalised over the row's own labels, exactly as they are listed (a
    token that is listed twice counts twice), not over the vocabulary: the exponentials of a row's scores sum to 1. So
    they are what a softmax over the vocabulary would give if every other token were forbidden. Products are summed in
    float32.

    Returns the log-probabilities, [num_labels], float32, in the order of `label_token_ids`, and the position of the
    best label among its row's, [num_tokens], int64: of equals the first, -1 for a row without labels. A logit of plus
    infinity or NaN, which the label has too whose token id is outside of the vocabulary, makes all scores of its row
    NaN; the first NaN is the best label then, else the first infinity.
    Raises RuntimeError for other dtypes, layouts and shapes than those above. Offsets that do not rise so raise on the
    CPU; a kernel cannot look without waiting for the GPU: there the results are wrong, but no wrong memory is touched.
    """
    log_probs, best = torch.ops.docmill.label_scores(hidden_states, lm_head, label_token_ids, label_offsets)
    return log_probs, best


def _check(hidden_states: Tensor, lm_head: Tensor, label_token_ids: Tensor, label_offsets: Tensor) -> None:
    op = "label_scores"
    check_dtype(op, "hidden_states", hidden_states, FLOATS)
    check_dtype(op, "lm_head", lm_head, (hidden_states.dtype,))
    check_dtype(op, "label_token_ids", label_token_ids, (torch.int64,))
    check_dtype(op, "label_offsets", label_offsets, (torch.int64,))
    check_rows(op, "hidden_states", hidden_states)
    check_rows(op, "lm_head", lm_head)
    check_vector(op, "label_token_ids", label_token_ids)
    check_vector(op, "label_offsets", label_offsets)
    torch._check(lm_head.size(0) > 0, lambda: f"{op}: lm_head must have at least one row")
    check_size(op, "lm_head", lm_head, 1, hidden_states.size(1))
    check_size(op, "label_offsets", label_offsets, 0, hidden_states.size(0) + 1)


def _native(
    hidden_states: Tensor, lm_head: Tensor, label_token_ids: Tensor, label_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    _check(hidden_states, lm_head, label_token_ids, label_offsets)
    num_tokens, num_labels = hidden_states.size(0), label_token_ids.size(0)
    rows = rows_of("label_scores", "label_offsets", label_offsets, num_labels)
    logits = _logits(hidden_states, lm_head, label_token_ids, rows)

    largest = logits.new_full((num_tokens,), -math.inf).scatter_reduce_(0, rows, logits, "amax")
    shifted = logits - largest[rows]
    sums = logits.new_zeros(num_tokens).index_add_(0, rows, shifted.exp())
    log_probs = shifted - sums.log()[rows]

    is_best = logits.isnan() | (logits == largest[rows])
    positions = torch.arange(num_labels, device=logits.device) - label_offsets[rows]
    best = label_offsets.new_full((num_tokens,), num_labels)
    best.scatter_reduce_(0, rows, positions.masked_fill(~is_best, num_labels), "amin")
    return log_probs, best.masked_fill_(label_offsets.diff() == 0, -1)


def _logits(hidden_states: Tensor, lm_head: Tensor, label_token_ids: Tensor, rows: Tensor) -> Tensor:
    """[num_labels], float32. Gathers some labels at a time: all of them may be many times the inputs."""
    known = (label_token_ids >= 0) & (label_token_ids < lm_head.size(0))
    ids = label_token_ids.where(known, 0)
    logits = hidden_states.new_empty(ids.shape, dtype=torch.float32)
    at_once = max(1, _ELEMENTS_AT_ONCE // max(1, hidden_states.size(1)))
    for start in range(0, ids.size(0), at_once):
        part = slice(start, start + at_once)
        logits[part] = (hidden_states[rows[part]].float() * lm_head[ids[part]].float()).sum(-1)
    return logits.masked_fill_(~known, math.nan)


def _fake(
    hidden_states: Tensor, lm_head: Tensor, label_token_ids: Tensor, label_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    _check(hidden_states, lm_head, label_token_ids, label_offsets)
    log_probs = hidden_states.new_empty(label_token_ids.shape, dtype=torch.float32)
    return log_probs, hidden_states.new_empty((hidden_states.size(0),), dtype=torch.int64)


declare(
    "label_scores(Tensor hidden_states, Tensor lm_head, Tensor label_token_ids, Tensor label_offsets)"
    " -> (Tensor, Tensor)",
    native=_native,
    fake=_fake,
)
