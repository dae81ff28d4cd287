"""The one place that turns settings into a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.engine_process import EngineProcess
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.hardware import hardware_of
from docmill.engine.supervised_engine import SupervisedEngine
from docmill.engine.tuned import TunedEngine, find_tuned
from docmill.engine.types import StartedEngine
from docmill.engine.vllm_engine import VllmEngine


def start_engine(
    model: ModelConfig, config: EngineConfig, known: Sequence[TunedEngine] = ()
) -> StartedEngine:
    """Begin to load the model and return at once: `wait_until_loaded` before anything else. The caller closes it.

    Loading takes seconds to minutes in a process of its own, in which the caller has other things to prepare. `known`
    are engines that were tuned: if this is one of them, its settings join the job's, and it goes without them where it
    does not load with them.
    """
    if config.kind == "fake":
        return _fake_engine(model, config, known)

    def start(config: EngineConfig, known: Sequence[TunedEngine] = ()) -> EngineProcess:
        return EngineProcess(
            partial(VllmEngine, model, config, known),
            hang_seconds=config.hang_seconds,
            memory_gib=config.memory_gib,
        )

    if not known:
        return SupervisedEngine(start, config)
    return SupervisedEngine(partial(start, known=tuple(known)), config, start_plain=start)


def _fake_engine(model: ModelConfig, config: EngineConfig, known: Sequence[TunedEngine]) -> FakeEngine:
    hardware = hardware_of(config, "cpu")
    tuned = find_tuned(config, known, model_fingerprint="fake", hardware=hardware)
    return FakeEngine(
        model=model.source,
        max_model_len=config.max_model_len or 2048,
        max_num_seqs=tuned.get("max_num_seqs") or config.max_num_seqs or 64,
        step_seconds=config.extra.get("step_seconds", 0.0),
        most_num_seqs=config.extra.get("most_num_seqs"),
        hardware=hardware,
        tuned=tuned,
    )
