"""What vLLM is told for each device, and why. With `quiet`, the only place that sets its environment.

Measured on two AVX2 cores: float32 is 6-8x faster than bfloat16, which falls back from oneDNN; `enforce_eager` saves
50 s of compilation; blocks of 32 tokens let prompts of 72 tokens share a cached prefix, vLLM's 128 do not.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

from docmill.engine import vllm_plugin
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.errors import EngineConfigError
from docmill.engine.kernel_choice import NO_KERNELS, KernelChoice
from docmill.engine.model_files import has_packed_weights
from docmill.engine.quiet import quiet_libraries

# Binding starves the threads that read and tokenise.
CPU_BLOCK_TOKENS = 32  # of the KV cache
GPU_BLOCK_TOKENS = 16  # vLLM's own
CPU_KV_CACHE_GIB = 1.0
GPU_MEMORY_UTILIZATION = 0.9
KERNELS_IN_CONFIG = "docmill_kernels"
# Where JSON's grammar allows blanks between two tokens, a model may write nothing else until its answer is cut off.
# vLLM's default backend takes another for what it cannot do, and then knows nothing of this setting.
JSON_WITHOUT_BLANKS = {"backend": "guidance", "disable_any_whitespace": True}
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def detect_device(config: EngineConfig) -> str:
    """`cpu` or `cuda`. Raises `EngineConfigError` when vLLM is not installed or not built for what was asked."""
    built_for = installed_for()
    if built_for is None:
        raise EngineConfigError(
            "vLLM is not installed. Install docmill[cpu] or docmill[gpu], or set `engine.kind: fake`"
        )
    if config.device == "cuda" and built_for == "cpu":
        raise EngineConfigError(
            "`engine.device: cuda`, but vLLM's CPU build is installed. Install docmill[gpu]"
        )
    if built_for == "cpu":
        return "cpu"
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks the driver, without starting CUDA here
    import torch

    if torch.cuda.is_available():
        if config.device == "cpu":
            raise EngineConfigError(
                "`engine.device: cpu`, but the installed vLLM is the CUDA build. Install docmill[cpu]"
            )
        return "cuda"
    raise EngineConfigError(
        "the installed vLLM needs an NVIDIA GPU and torch sees none. Install docmill[cpu] instead"
    )


def installed_for() -> str | None:
    """Which vLLM is installed: `cpu`, `cuda` or None. The CPU build is a distribution of another name."""
    for distribution, device in (("vllm-cpu", "cpu"), ("vllm", "cuda")):
        try:
            metadata.version(distribution)
            return device
        except metadata.PackageNotFoundError:
            continue
    return None


def prepare_environment(*, device: str, offline: bool, plugin: bool = False) -> None:
    """Set what vLLM reads from the environment; what the user set stays. Before the first `import vllm`.

    `plugin`: our quantisations are wanted, see `vllm_plugin`.
    """
    quiet_libraries()
    os.environ[vllm_plugin.ASKED] = "1" if plugin else "0"
    wanted: dict[str, str] = {}
    if device == "cpu":
        wanted |= CPU_ENVIRONMENT
    else:
        # For the workers of a tensor-parallel model: vLLM's default forks this process, which has threads by then.
        wanted["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if offline:
        wanted["HF_HUB_OFFLINE"] = "1"  # a local model needs no hub; without this some loaders ask it anyway
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # The engine is in the process that builds it: that process is one of our own (`engine_process`), whose death
    # is seen at once, where vLLM's synchronous engine would wait for its dead core for ever.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def block_tokens(config: EngineConfig, *, on_cpu: bool) -> int:
    """Tokens in one block of the KV cache: the prefix cache keeps whole blocks."""
    return int(config.extra.get("block_size", CPU_BLOCK_TOKENS if on_cpu else GPU_BLOCK_TOKENS))


def memory_share(config: EngineConfig, *, device: str) -> dict[str, float]:
    """What the KV cache's memory follows from, by the setting's name; nothing where `extra` says it in bytes."""
    if "kv_cache_memory_bytes" in config.extra:
        return {}
    if device == "cpu":
        return {"kv_cache_gib": config.kv_cache_gib or CPU_KV_CACHE_GIB}
    share = config.extra.get("gpu_memory_utilization") or config.gpu_memory_utilization
    return {"gpu_memory_utilization": share or GPU_MEMORY_UTILIZATION}


def engine_args(
    config: EngineConfig,
    model: ModelConfig,
    *,
    source: str,
    device: str,
    kernels: KernelChoice = NO_KERNELS,
) -> dict[str, Any]:
    """Keyword arguments for vLLM's EngineArgs. `source` is the model's folder, or its name for vLLM to fetch.

    Raises `EngineConfigError` where the settings do not go with the checkpoint.
    """
    args: dict[str, Any] = {
        "model": source,
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "dtype": config.dtype,
        "seed": config.seed,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "structured_outputs_config": JSON_WITHOUT_BLANKS,
        "tensor_parallel_size": config.tensor_parallel_size,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
    }
    if device == "cpu":
        args |= {
            "dtype": _cpu_dtype(config, source),
            "enforce_eager": True,
            "block_size": CPU_BLOCK_TOKENS,
            "kv_cache_memory_bytes": int((config.kv_cache_gib or CPU_KV_CACHE_GIB) * 2**30),
            "max_num_seqs": config.max_num_seqs or 64,
        }
    else:
        args["gpu_memory_utilization"] = config.gpu_memory_utilization or GPU_MEMORY_UTILIZATION
    if config.quantization:
        is_theirs = config.quantization == "fp8" and device == "cuda"
        args["quantization"] = "fp8_per_channel" if is_theirs else f"docmill_{config.quantization}"
    args = {name: value for name, value in args.items() if value is not None} | config.extra
    if kernels.ops:
        args["worker_cls"] = "docmill.engine.vllm_worker.KernelWorker"
        # vLLM keeps compiled models by this too: one compiled with other kernels is another.
        ours = {KERNELS_IN_CONFIG: {"ops": kernels.ops, "implementation": kernels.implementation}}
        args["additional_config"] = args.get("additional_config", {}) | ours
    return args


def _cpu_dtype(config: EngineConfig, source: str) -> str:
    """float32 for speed; but vLLM's CPU kernel for packed 4-bit weights (`cpu_gemm_wna16`) has none for it."""
    packed = has_packed_weights(source)
    if config.dtype == "auto":
        return "bfloat16" if packed else "float32"
    if config.dtype == "float32" and packed:
        raise EngineConfigError(
            "`engine.dtype: float32`, but the checkpoint has 4-bit weights, which vLLM multiplies in 16 bits alone "
            "on a CPU. Leave `dtype` away, or say bfloat16"
        )
    return config.dtype
