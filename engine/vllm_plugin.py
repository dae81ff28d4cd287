"""What vLLM loads of docmill in each of its processes: the entry point `docmill` of `vllm.general_plugins`.

It registers the quantisations of `engine.quantization`. Where docmill is merely installed beside vLLM, it does nothing:
`VllmEngine` asks for it through the environment, which vLLM's processes inherit.
"""

from __future__ import annotations

import os

ASKED = "DOCMILL_VLLM_PLUGIN"


def register() -> None:
    """Called by vLLM, once a process, before it looks at its settings."""
    if os.environ.get(ASKED) == "1":
        import docmill.engine.vllm_w8a8  # noqa: F401 - it registers itself
