"""What the ops should compute, in float64 or in Python's own integers: slow, and written without looking at them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FLOAT32_MAX = torch.finfo(torch.float32).max


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """[rows, size]; NaN for rows that hold no numbers, or whose squares float32 cannot add."""
    values = x.double().cpu()
    sums = (values * values).sum(-1, keepdim=True)
    normalized = values / torch.sqrt(sums / values.size(-1) + epsilon) * weight.double().cpu()
    return normalized.masked_fill(~(sums <= FLOAT32_MAX), math.nan)


def silu_mul(gate_up: Tensor) -> Tensor:
    """[rows, width]; what float32 cannot hold is infinite."""
    values = gate_up.double().cpu()
    gate, up = values[:, : values.size(1) // 2], values[:, values.size(1) // 2 :]
    products = gate / (1 + torch.exp(-gate)) * up
    return torch.where(products.abs() > FLOAT32_MAX, math.inf, products)


def log_softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    log_sum = math.log(sum(math.exp(logit - largest) for logit in logits))
    return [logit - largest - log_sum for logit in logits]


def label_logits(hidden_state: Tensor, lm_head: Tensor, token_ids: Sequence[int]) -> list[float]:
    state = hidden_state.double().cpu()
    return [float((state * lm_head[token_id].double().cpu()).sum()) for token_id in token_ids]


MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(bits: int) -> int:
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def signature(token_ids: Sequence[int], *, num_hashes: int, shingle_size: int, seed: int) -> list[int]:
    """One sequence's, one shingle and hash function after the other."""
    hashes = set()
    for start in range(max(len(token_ids) - shingle_size, 0) + 1 if token_ids else 0):
        bits = GOLDEN
        for token_id in token_ids[start : start + shingle_size]:
            bits = (bits ^ token_id & MASK) * 0xBF58476D1CE4E5B9 & MASK
            bits ^= bits >> 32
        hashes.add(mix(bits))
    numbers = []
    for function in range(num_hashes):
        key = seed + GOLDEN * (2 * function + 1) & MASK
        factor, offset = mix(key) | 1, mix(key + GOLDEN & MASK)
        permuted = [factor * bits + offset & MASK for bits in hashes]
        numbers.append(min([(bits ^ 1 << 63) - (1 << 63) for bits in permuted], default=(1 << 63) - 1))
    return numbers
