"""What goes into an engine and what comes out. No vLLM type crosses this border.

A caller submits `Request`s at any time and takes `Completion`s as they finish, in any order, each exactly once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Literal, Protocol

import xxhash

from docmill.data.records import NO_USAGE, Usage
from docmill.engine.steps import NO_STEPS, StepSums


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw the answer's tokens. The default is greedy: the same prompt gives the same answer."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None  # the answer is constrained to JSON of this schema

    @property
    def repeatable(self) -> bool:
        """Whether the same prompt gives the same answer, so that one answer may stand for several requests."""
        return self.temperature == 0.0 or self.seed is not None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt. With `labels`, nothing is generated: each label (its token ids) is scored as the continuation."""

    id: str  # unique among the requests in flight
    prompt_token_ids: Sequence[int]
    sampling: Sampling
    labels: tuple[tuple[int, ...], ...] | None = None

    def key(self, engine: str) -> str:
        """Content hash of everything the answer depends on: prompt ids, sampling, labels, engine. 32 hex digits.

        `engine` stands for the model's fingerprint and the settings that change what it answers.
        """
        digest = xxhash.xxh3_128(_described(engine, self.sampling, self.labels))
        ids = self.prompt_token_ids
        digest.update(ids if isinstance(ids, array) and ids.typecode == "i" else array("i", ids))
        return digest.hexdigest()


@lru_cache(
    maxsize=4096
)  # a job has a few of them, and writing one out takes as long as the rest of a request
def _described(engine: str, sampling: Sampling, labels: tuple[tuple[int, ...], ...] | None) -> bytes:
    return f"{engine}|{sampling}|{labels}|".encode()


@dataclass(frozen=True, slots=True)
class RequestError:
    """Why a request has no answer. `reason` is a fixed word that reports count by."""

    reason: str  # prompt_too_long, rejected, engine_error, killed_engine
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class Completion:
    """The engine's answer to one request: `token_ids`, or `label_logprobs`, or an `error`."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None  # "stop" or "length"
    usage: Usage = NO_USAGE
    label_logprobs: tuple[float, ...] | None = (
        None  # log of P(what tells the label from the others), see `labels`
    )
    error: RequestError | None = None
    attempts: int = 1  # more than one where an engine died with this request in flight


DeathKind = Literal["died", "hung", "out_of_memory"]


@dataclass(frozen=True, slots=True)
class Incident:
    """One death of an engine, for the report: what happened and what was done about it. No text of a document."""

    kind: DeathKind
    at: datetime  # UTC
    num_in_flight: int
    message: str
    action: str
    limits: Mapping[str, int] = field(default_factory=dict)  # the batch limits it goes on with, where lowered


@dataclass(frozen=True, slots=True)
class KernelUse:
    """What became of one of our kernels in an engine, see `kernel_choice` and `vllm_layers`."""

    num_places: int = 0  # layers of the model that are ours
    implementation: str = ""  # `native`, a twin in PyTorch's own operations, or the binary's name
    reason: str = ""  # why it has no places


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is running, for the report. Known once the engine has loaded."""

    name: str
    model: str
    model_fingerprint: str
    device: str  # as in the job's price table: cpu, nvidia-h100, ...
    max_model_len: int  # tokens of prompt and answer together
    max_num_seqs: int
    load_seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    max_num_batched_tokens: int | None = None  # tokens computed in one step
    kv_cache_tokens: int | None = None  # that it has room for
    dtype: str = ""  # of the computation: `auto` is another one on another device
    hardware: str = ""  # the device and what else decides how fast it is, see `hardware`
    settings: Mapping[str, float] = field(default_factory=dict)  # that can be tuned, as they are in effect
    tuned: Mapping[str, float] = field(default_factory=dict)  # of them, those that `docmill tune` has found
    kernels: Mapping[str, KernelUse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """How full an engine is at one moment, and what it has computed since it was opened."""

    num_running: int = 0  # sequences of the next step
    num_waiting: int = 0  # that found no room in it
    kv_cache_used: float = 0.0  # share of it, by sequences that run
    num_prompt_tokens: int = 0  # computed, so without what the prefix cache had
    num_output_tokens: int = 0
    steps: StepSums = NO_STEPS  # of those that it has made
    kernel_calls: Mapping[str, int] = field(default_factory=dict)  # by op, on one GPU

    def after(self, earlier: Load) -> Load:
        """The same, with what an engine before it has computed."""
        return replace(
            self,
            num_prompt_tokens=earlier.num_prompt_tokens + self.num_prompt_tokens,
            num_output_tokens=earlier.num_output_tokens + self.num_output_tokens,
            steps=earlier.steps.plus(self.steps),
            kernel_calls=dict(Counter(earlier.kernel_calls) + Counter(self.kernel_calls)),
        )


class Engine(Protocol):
    """One model that answers requests. One thread submits and another may take completions."""

    @property
    def info(self) -> EngineInfo:
        """What is running."""
        ...

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose completion has not been taken."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Seconds in which the engine had something to compute."""
        ...

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens computed, those of unfinished requests included as of a second ago."""
        ...

    @property
    def num_steps(self) -> int:
        """Grows while the engine computes; with requests in flight, an engine whose steps stand still is hung."""
        ...

    @property
    def load(self) -> Load:
        """How full it is, and what it has computed; as of a second ago."""
        ...

    @property
    def incidents(self) -> Sequence[Incident]:
        """What the engine has survived, oldest first."""
        ...

    def submit(self, request: Request) -> None:
        """Hand over one request; returns at once. Raises `EngineDied` only if the engine is gone."""
        ...

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """What has finished since the last call; waits up to the timeout for the first. Raises `EngineDied`."""
        ...

    def close(self) -> None:
        """Stop and give back all memory, processes and threads. Safe to call twice."""
        ...


class StartedEngine(Engine, Protocol):
    """An engine that may still be loading. Only `close` may be called before `wait_until_loaded` has said True."""

    def wait_until_loaded(self, timeout_seconds: float | None = None) -> bool:
        """Whether the model answers by then. Raises `ModelError`, `EngineConfigError` or `EngineDied`."""
        ...
