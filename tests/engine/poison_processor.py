"""A logits processor for tests: kills its process when a prompt holds a certain token. Named in `engine.extra`, so that
the engine's process imports it; imports vLLM, as the tests themselves do not."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

POISON_TOKEN_ID = 4000


class KillsAtToken(LogitsProcessor):
    """Stands for a kernel that crashes on certain inputs."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Nothing to keep."""

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: Any) -> None:
        for _, _, prompt_token_ids, _ in batch_update.added if batch_update else ():
            if POISON_TOKEN_ID in (prompt_token_ids or ()):
                os.kill(os.getpid(), signal.SIGKILL)
