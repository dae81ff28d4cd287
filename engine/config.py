"""Settings of the model and the engine, as they stand in a job's YAML. Unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

PositiveInt = Annotated[int, Field(gt=0)]
KernelName = Literal["rms_norm_quant", "silu_mul_quant"]
KERNELS: tuple[KernelName, ...] = get_args(KernelName)  # of our ops, those that vLLM has a place for


class ModelConfig(BaseModel):
    """Which model answers. `source` is `demo` (bundled), a folder, or a Hugging Face name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    source: str = "demo"
    revision: str | None = None
    """Commit or tag of a Hugging Face model; pin it, or answers change when the model does."""
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """E.g. {enable_thinking: false} for Qwen3."""


class EngineConfig(BaseModel):
    """How the model runs. What is not set is chosen for the device, see `vllm_settings`, or was tuned, see `tuned`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["vllm", "fake"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto on a CPU is float32, 6-8x faster on AVX2; bfloat16 where the checkpoint has 4-bit weights."""
    quantization: Literal["int8", "fp8"] | None = None
    """8-bit weights and activations, made while the model loads, see `vllm_w8a8`. null: as the checkpoint has them."""
    kernels: Literal["auto", "off"] | tuple[KernelName, ...] = "auto"
    """Our CUDA kernels in the model, see `kernel_choice`: where there is a GPU, never, or those that are named."""
    max_model_len: PositiveInt | None = None
    """null: what the model was made for."""
    max_num_seqs: PositiveInt | None = None
    """Sequences computed together; more is faster until memory is full."""
    max_num_batched_tokens: PositiveInt | None = None
    max_in_flight: PositiveInt | None = None
    """Requests in the engine; null: by how full it is, `ops.admission`."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """null: 0.9."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory for the KV cache on a CPU; null: 1."""
    tensor_parallel_size: PositiveInt = 1
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Host memory of the engine's process; set it where too large a batch must not take the machine down."""
    hang_seconds: Annotated[float, Field(ge=2)] = 300
    """An engine without a step for so long, while it has requests, is killed and restarted. Longer than the longest
    step: raise it where vLLM compiles between steps."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """In a row without one answer in between; then the run fails."""
    seed: int = 0
    extra: dict[str, Any] = Field(default_factory=dict)
    """Handed to vLLM's EngineArgs as it stands."""

    @field_validator("kernels", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value
