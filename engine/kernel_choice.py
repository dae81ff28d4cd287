"""Which of our kernels an engine is to use: `engine.kernels` of the job, and what this machine can do.

What the model makes of it is known only when it has loaded, see `vllm_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from docmill.engine.config import KERNELS, EngineConfig

if TYPE_CHECKING:
    from docmill.kernels._load import Implementation


@dataclass(frozen=True)
class KernelChoice:
    """The ops to put into the model, and of the others why not, in a line each."""

    ops: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    implementation: str = ""  # what serves them: `native`, or the binary's name; part of what vLLM compiles


NO_KERNELS = KernelChoice()
NO_GPU = "there is no GPU (named in `engine.kernels`, their twins serve)"
NOT_QUANTISED = "the model is not quantised"
# vLLM joins the norm and the sum over the GPUs before it in one kernel, which is more.
SEVERAL_GPUS = "`engine.tensor_parallel_size` is more than 1 (named in `engine.kernels`, it serves)"


def choose_kernels(config: EngineConfig, *, device: str, is_quantised: bool = True) -> KernelChoice:
    """`auto` takes them where a GPU runs them in a model of 8 bits. On a CPU, those that are named are native twins.

    `is_quantised`: whether the checkpoint is, or may be.
    """
    if config.kernels == "off":
        return NO_KERNELS
    if "worker_cls" in config.extra:
        return _none("`engine.extra.worker_cls` takes their place")
    if config.kernels == "auto":
        if device == "cpu":
            return _none(NO_GPU)
        if not (is_quantised or config.quantization or "quantization" in config.extra):
            return _none(NOT_QUANTISED)
    serves = kernel_implementation()
    if device == "cuda" and serves.name == "native":
        return _none(serves.reason)  # a twin would be slower than what vLLM has
    others: dict[str, str] = {}
    if config.kernels != "auto":
        others = {op: "not named in `engine.kernels`" for op in KERNELS if op not in config.kernels}
    elif config.tensor_parallel_size > 1:
        others = {"rms_norm_quant": SEVERAL_GPUS}
    ops = tuple(op for op in KERNELS if op not in others)
    return KernelChoice(ops, others, serves.binary or serves.name)


def kernel_implementation() -> Implementation:
    """What serves the ops in this process. Imports torch."""
    from docmill.kernels._load import implementation

    return implementation()


def _none(reason: str) -> KernelChoice:
    return KernelChoice(reasons=dict.fromkeys(KERNELS, reason))
