"""The one place that turns settings into a running engine."""

from __future__ import annotations

from functools import partial

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.supervised_engine import SupervisedEngine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine
from docmill.engine.vllm_engine import VllmEngine


def open_engine(model: ModelConfig, config: EngineConfig, tokenizer: ModelTokenizer) -> Engine:
    """Load the model and return when it answers. The caller closes it.

    Raises `ModelError`, `EngineConfigError`, or `EngineDied` where it dies at every attempt.
    """
    if config.kind == "fake":
        return FakeEngine(model=model.source, max_model_len=config.max_model_len or 2048)

    def start(config: EngineConfig) -> EngineProcess:
        return EngineProcess(
            partial(VllmEngine, model, config, end_token_id=tokenizer.end_token_id),
            hang_seconds=config.hang_seconds,
            memory_gib=config.memory_gib,
        )

    return SupervisedEngine(start, config)
