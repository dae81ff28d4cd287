"""What our kernels do in a running engine: where they are in the model, and how often they have run since it loaded."""

from __future__ import annotations

from typing import Any

from docmill.engine.kernel_choice import KernelChoice
from docmill.engine.types import KernelUse


class KernelMeter:
    """Asks vLLM's workers (`vllm_worker`). Of several GPUs it is told of the first."""

    def __init__(self, choice: KernelChoice):
        self.uses = {op: KernelUse(reason=reason) for op, reason in choice.reasons.items()}
        self._choice = choice
        self._before: dict[str, int] = {}  # vLLM tries its model out while it loads

    def loaded(self, engine: Any) -> None:
        """`engine` has its model."""
        for op, (found, num_calls) in self._ask(engine).items():
            if isinstance(found, str):
                self.uses[op] = KernelUse(reason=found)
            else:
                self.uses[op] = KernelUse(found, self._choice.implementation)
                self._before[op] = num_calls

    def calls(self, engine: Any) -> dict[str, int]:
        """Since it has loaded, of the ops that are in the model; a step that is under way may be in it or not."""
        if not self._before:
            return {}
        return {
            op: calls - self._before[op] for op, (_, calls) in self._ask(engine).items() if op in self._before
        }

    def _ask(self, engine: Any) -> dict[str, tuple[int | str, int]]:
        if not self._choice.ops:
            return {}
        answer: dict[str, tuple[int | str, int]] = engine.collective_rpc("kernels")[0]
        return answer
