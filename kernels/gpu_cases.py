"""What `make gpu-check` measures: each op at the shapes of real models, and what would run in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_TOKENS = (1, 16, 256, 1024, 8192)
NUM_LABELS = 10
TOKENS_A_DOCUMENT = 512
EPSILON = 1e-6
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Model:
    """Shapes of a Qwen3 model."""

    name: str
    hidden: int
    intermediate: int
    vocabulary: int = 151_936


MODELS = (Model("0.6B", 1024, 3072), Model("8B", 4096, 12288), Model("32B", 5120, 25600))


@dataclass(frozen=True)
class Case:
    """One op at one shape: ours and what else gives the same, by name; `num_bytes` as the roofline counts them."""

    op: str
    model: str
    num_tokens: int
    num_bytes: int
    ways: Mapping[str, Callable[[], Any]]


def cases() -> Iterator[Case]:
    """All ops over all models and numbers of tokens, made one after the other."""
    for model in MODELS:
        lm_head = _normal(model.vocabulary, model.hidden)
        for num_tokens in NUM_TOKENS:
            yield _rms_norm_quant(model, num_tokens)
            yield _silu_mul_quant(model, num_tokens)
            yield _silu_mul_quant(model, num_tokens, group_size=128)
            if num_tokens <= 1024:  # these are requests; a full head's log-probabilities are 0.6 MB each
                yield _label_scores(model, num_tokens, lm_head)
    for num_documents in (16, 1024, 8192):
        yield _min_hash(num_documents)


# The ops are imported only here: importing one loads the binary, and it is built by then.


def _rms_norm_quant(model: Model, num_tokens: int) -> Case:
    from docmill.kernels.rms_norm_quant import compute, rms_norm_quant

    x, residual = (_normal(num_tokens, model.hidden) for _ in range(2))
    weight = _normal(model.hidden)
    ways = {
        "docmill": partial(rms_norm_quant, x, weight, EPSILON, residual=residual),
        "torch.compile": partial(_compiled(compute), x, weight, residual, EPSILON, FP8),
    }
    if ops := _vllm_ops():
        ways["vllm"] = partial(ops.rms_norm_dynamic_per_token_quant, x, weight, EPSILON, FP8, None, residual)
    return Case("rms_norm_quant", model.name, num_tokens, num_tokens * (7 * model.hidden + 4), ways)


def _silu_mul_quant(model: Model, num_tokens: int, group_size: int = 0) -> Case:
    from docmill.kernels.silu_mul_quant import compute, silu_mul_quant

    gate_up = _normal(num_tokens, 2 * model.intermediate)
    ways = {
        "docmill": partial(silu_mul_quant, gate_up, group_size=group_size),
        "torch.compile": partial(_compiled(compute), gate_up, group_size, FP8),
    }
    if ops := _vllm_ops():
        if group_size:
            ways["vllm"] = partial(ops.silu_and_mul_per_block_quant, gate_up, group_size, FP8)
        else:  # for a scale a token it has two kernels
            ways["vllm"] = partial(_silu_and_mul_then_quant, ops, gate_up)
    num_groups = model.intermediate // group_size if group_size else 1
    num_bytes = num_tokens * (5 * model.intermediate + 4 * num_groups)
    name = f"silu_mul_quant {group_size}" if group_size else "silu_mul_quant"
    return Case(name, model.name, num_tokens, num_bytes, ways)


def _label_scores(model: Model, num_tokens: int, lm_head: Tensor) -> Case:
    from docmill.kernels.label_scores import label_scores

    states = _normal(num_tokens, model.hidden)
    ids = torch.arange(NUM_LABELS, device="cuda").repeat(num_tokens)
    offsets = torch.arange(num_tokens + 1, device="cuda") * NUM_LABELS
    ways = {
        "docmill": partial(label_scores, states, lm_head, ids, offsets),
        "full head": partial(_full_head, states, lm_head, ids),
    }
    num_bytes = 2 * model.hidden * (num_tokens + NUM_LABELS) + 20 * num_tokens * NUM_LABELS
    return Case("label_scores", model.name, num_tokens, num_bytes, ways)


def _min_hash(num_documents: int) -> Case:
    from docmill.kernels.min_hash import _native, min_hash

    num_tokens = num_documents * TOKENS_A_DOCUMENT
    token_ids = torch.randint(0, 151_936, (num_tokens,), dtype=torch.int32, device="cuda")
    offsets = torch.arange(num_documents + 1, device="cuda") * TOKENS_A_DOCUMENT
    ways = {
        "docmill": partial(min_hash, token_ids, offsets),
        "twin": partial(_native, token_ids, offsets, 128, 5, 0),
    }
    return Case("min_hash", "-", num_documents, 4 * num_tokens + 1024 * num_documents, ways)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", torch.compile(function, dynamic=True))


@cache
def _vllm_ops() -> Any:
    """None where vLLM for CUDA is not installed."""
    if version_of("vllm") is None:
        return None
    try:
        import vllm._custom_ops  # registers torch.ops._C
    except ImportError as error:
        print(
            f"gpu-check: vLLM is installed but not measured, it cannot be imported: {error}", file=sys.stderr
        )
        return None
    return vllm._custom_ops


def version_of(distribution: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _silu_and_mul_then_quant(ops: Any, gate_up: Tensor) -> Any:
    activated = gate_up.new_empty(gate_up.size(0), gate_up.size(1) // 2)
    torch.ops._C.silu_and_mul(activated, gate_up)
    return ops.scaled_fp8_quant(activated, use_per_token_if_dynamic=True)


def _full_head(hidden_states: Tensor, lm_head: Tensor, label_token_ids: Tensor) -> Tensor:
    """As without label_scores: logits of the whole vocabulary, and of their log-probabilities the labels'."""
    log_probs = F.linear(hidden_states, lm_head).float().log_softmax(-1)
    return log_probs.gather(1, label_token_ids.view(hidden_states.size(0), -1))
