"""The one place that turns settings into a running engine."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.supervised_engine import SupervisedEngine
from docmill.engine.types import Engine
from docmill.engine.vllm_engine import VllmEngine


def open_engine(model: ModelConfig, config: EngineConfig) -> Engine:
    """Load the model and return when it answers. The caller closes it.

    Raises `ModelError`, `EngineConfigError`, or `EngineDied` where it dies at every attempt.
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


def open_engine_soon(model: ModelConfig, config: EngineConfig) -> Future[Engine]:
    """`open_engine` in a thread of its own. The engine's process and the caller's imports take seconds each.

    A daemon, so that a program which nobody waits for any more ends while a large model loads: close what came of it
    with `close_when_open`.
    """
    opening = Future[Engine]()

    def run() -> None:
        try:
            opening.set_result(open_engine(model, config))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            opening.set_exception(error)

    threading.Thread(target=run, name="docmill-load", daemon=True).start()
    return opening


def close_when_open(opening: Future[Engine]) -> None:
    """Close the engine now, or when it has loaded; nothing where it could not be opened."""
    opening.add_done_callback(lambda done: done.result().close() if done.exception() is None else None)
