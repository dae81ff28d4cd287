"""vLLM's worker with our kernels: it puts them into the model once that is loaded, and says how often they ran.

Seam: `worker_cls`, which vLLM imports in each of its worker processes; `additional_config` holds what to put in. After
loading, every linear layer has the kernel that it will use, and nothing has been compiled yet.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform

from docmill.engine.vllm_layers import fuse
from docmill.engine.vllm_settings import KERNELS_IN_CONFIG
from docmill.kernels._load import num_calls

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as TheirWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as TheirWorker


class KernelWorker(TheirWorker):
    """One GPU's worker, or the CPU's."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """As theirs; then the layers with kernels take the place of some."""
        super().load_model(*args, **kwargs)
        ops = self.vllm_config.additional_config[KERNELS_IN_CONFIG]["ops"]
        self._fused: dict[str, int | str] = dict.fromkeys(ops, "the GPU is older than our kernels (sm_80)")
        if current_platform.is_cpu() or current_platform.has_device_capability(80):
            self._fused = fuse(self.get_model(), ops)

    def kernels(self) -> dict[str, tuple[int | str, int]]:
        """Of each op that was wanted: its places in the model, or why it has none, and how often it ran here."""
        return {op: (found, num_calls(op)) for op, found in self._fused.items()}
