"""The one place that turns settings into a running engine."""

from __future__ import annotations

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine


def open_engine(model: ModelConfig, config: EngineConfig, tokenizer: ModelTokenizer) -> Engine:
    """Load the model and return when it answers. The caller closes it. Raises `ModelError`, `EngineConfigError`."""
    if config.kind == "fake":
        return FakeEngine(model=model.source, max_model_len=config.max_model_len or 2048)
    # Imported here: vLLM and torch take ten seconds, and dry runs need neither.
    from docmill.engine.vllm_engine import VllmEngine

    return VllmEngine(model, config, end_token_id=tokenizer.end_token_id)
