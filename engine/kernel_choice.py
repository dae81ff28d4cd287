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


def choose_kernels(config: EngineConfig, *, device: str) -> KernelChoice:
    """`auto` takes the kernels where a GPU runs them. Ops that are named are taken anywhere, also as native twins."""
    if config.kernels == "off":
        return NO_KERNELS
    if "worker_cls" in config.extra:
        return KernelChoice(reasons=dict.fromkeys(KERNELS, "`engine.extra.worker_cls` takes their place"))
    if config.kernels == "auto" and device == "cpu":
        return KernelChoice(reasons=dict.fromkeys(KERNELS, NO_GPU))
    serves = kernel_implementation()
    if config.kernels == "auto":
        if serves.name == "native":
            return KernelChoice(reasons=dict.fromkeys(KERNELS, serves.reason))
        return KernelChoice(KERNELS, implementation=serves.binary)
    named = tuple(op for op in KERNELS if op in config.kernels)
    others: dict[str, str] = {op: "not named in `engine.kernels`" for op in KERNELS if op not in named}
    return KernelChoice(named, others, serves.binary or serves.name)


def kernel_implementation() -> Implementation:
    """What serves the ops in this process. Imports torch."""
    from docmill.kernels._load import implementation

    return implementation()
