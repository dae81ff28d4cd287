"""The one place that turns settings into a running engine."""

from __future__ import annotations

from functools import partial

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.supervised_engine import SupervisedEngine
from docmill.engine.types import StartedEngine
from docmill.engine.vllm_engine import VllmEngine


def start_engine(model: ModelConfig, config: EngineConfig) -> StartedEngine:
    """Begin to load the model and return at once: `wait_until_loaded` before anything else. The caller closes it.

    Loading takes seconds to minutes in a process of its own, in which the caller has other things to prepare.
    """
    if config.kind == "fake":
        return FakeEngine(model=model.source, max_model_len=config.max_model_len or 2048)

    def start(config: EngineConfig) -> EngineProcess:
        return EngineProcess(
            partial(VllmEngine, model, config),
            hang_seconds=config.hang_seconds,
            memory_gib=config.memory_gib,
        )

    return SupervisedEngine(start, config)
