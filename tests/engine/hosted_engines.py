"""Engines for tests to host in a process of their own. Each does one thing wrong, at a token that says so.

Imported by its short name, so that the hosting process finds it too (see conftest).
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from docmill.data.records import Usage
from docmill.engine.config import EngineConfig
from docmill.engine.errors import EngineConfigError, EngineDied, ModelError
from docmill.engine.types import Completion, EngineInfo, Incident, Load, Request, RequestError, Sampling

POISON = 666_000  # crashes the process as a bad kernel would
RAISES = 666_001  # an exception in the engine
HANGS = 666_002  # the engine's thread never comes back
EXITS = 666_003  # a library calls exit()
WANTS_MEMORY = 666_004  # is answered only in batches of at most SMALL
SMALL = 8
REFUSED = 666_006  # by `RefusesFirst`
TOO_LARGE = 666_005  # fits into no batch of `NeedsMemory`


def request(name: str | int, *tokens: int) -> Request:
    """A request whose answer depends on its tokens alone."""
    return Request(str(name), list(tokens) or [1, 2, 3], Sampling(8))


def expected(asked: Request) -> Completion:
    """What an undisturbed engine answers."""
    tokens = tuple(token + 1 for token in asked.prompt_token_ids)
    return Completion(asked.id, tokens, "stop", Usage(len(tokens), 0, len(tokens)))


class StepEngine:
    """Answers `max_num_seqs` requests a step, each step so many seconds long, in a thread of its own."""

    def __init__(
        self, config: EngineConfig | None = None, *, step_seconds: float = 0.002, log: str | None = None
    ):
        config = config or EngineConfig()
        self.info = EngineInfo(
            name="step", model="step", model_fingerprint="step", device="cpu", max_model_len=2048,
            max_num_seqs=config.max_num_seqs or 16, max_num_batched_tokens=config.max_num_batched_tokens or 2048,
            load_seconds=0.0,
        )  # fmt: skip
        self.incidents: list[Incident] = []
        self.busy_seconds = 0.0
        self.num_steps = self.num_tokens = 0
        self.load = Load()
        self.num_in_flight = 0
        self._step_seconds = step_seconds
        self._log = log
        self._note("opened")
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, asked: Request) -> None:
        self._inbox.put(asked)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        taken = []
        try:
            item = self._outbox.get(timeout=timeout_seconds)
            while True:
                if isinstance(item, BaseException):
                    if taken:
                        self._outbox.put(item)
                        return taken
                    raise item
                taken.append(item)
                item = self._outbox.get_nowait()
        except queue.Empty:
            return taken

    def close(self) -> None:
        self._note("closed")

    def _run(self) -> None:
        while True:
            batch = [self._inbox.get()]
            while not self._inbox.empty() and len(batch) < self.info.max_num_seqs:
                batch.append(self._inbox.get())
            started = time.monotonic()
            try:
                self.step(batch)
            except BaseException as error:  # noqa: BLE001
                self._outbox.put(error)
                return
            time.sleep(self._step_seconds)
            self.busy_seconds += time.monotonic() - started
            self.num_steps += 1
            for asked in batch:
                self.num_tokens += 2 * len(asked.prompt_token_ids)
                self._outbox.put(expected(asked))

    def step(self, batch: list[Request]) -> None:
        tokens = {token for asked in batch for token in asked.prompt_token_ids}
        self._note(f"step {len(batch)}")
        if POISON in tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISES in tokens:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if HANGS in tokens:
            threading.Event().wait()
        if EXITS in tokens:
            os._exit(7)
        if WANTS_MEMORY in tokens and len(batch) > SMALL:
            raise MemoryError(f"a batch of {len(batch)}")

    def _note(self, what: str) -> None:
        if self._log:
            with Path(self._log).open("a") as stream:
                stream.write(json.dumps([time.time(), os.getpid(), what]) + "\n")


class RefusesFirst(StepEngine):
    """Refuses some requests before anything is computed, as vLLM does with a schema that it cannot use."""

    def submit(self, asked: Request) -> None:
        if REFUSED in asked.prompt_token_ids:
            self._outbox.put(Completion(asked.id, error=RequestError("rejected", "no such schema")))
        else:
            super().submit(asked)


class NeedsMemory(StepEngine):
    """Has not enough for one of its requests, however small the batch."""

    def step(self, batch: list[Request]) -> None:
        if any(TOO_LARGE in asked.prompt_token_ids for asked in batch):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def no_such_model(_: EngineConfig | None = None) -> StepEngine:
    raise ModelError("acme/none", "no such model")


def bad_setting(_: EngineConfig | None = None) -> StepEngine:
    raise EngineConfigError("`engine.extra` holds a setting that vLLM does not know")


def needs_too_much(_: EngineConfig | None = None) -> StepEngine:
    raise EngineDied("while loading: CUDA out of memory", 0, "out_of_memory")


def bug_while_loading() -> StepEngine:
    raise ZeroDivisionError("a bug")


def load_for_ever() -> StepEngine:
    threading.Event().wait()
    raise AssertionError


def crash_while_loading(_: EngineConfig | None = None, *, log: str | None = None) -> StepEngine:
    if log:
        StepEngine(log=log)
    ctypes.string_at(0)
    raise AssertionError


def needs_gibibytes(gib: float) -> StepEngine:
    held = bytearray(int(gib * 2**30))
    assert held
    return StepEngine()


def prints() -> StepEngine:
    print("not for stdout")
    return StepEngine()


def _num_earlier(path: str) -> int:
    """How many processes have asked this before."""
    with open(path, "a") as stream:
        stream.write("x")
        return stream.tell() - 1


def loads_every_other_time(config: EngineConfig, *, path: str) -> StepEngine:
    if _num_earlier(path) % 2:
        raise EngineConfigError("memory is not free yet")
    return StepEngine(config)


def loads_once(config: EngineConfig, *, path: str) -> StepEngine:
    return load_for_ever() if _num_earlier(path) else StepEngine(config)


def crashes_again(config: EngineConfig, *, path: str) -> StepEngine:
    return crash_while_loading() if _num_earlier(path) else StepEngine(config)


def another_model_each_time(config: EngineConfig, *, path: str) -> StepEngine:
    engine = StepEngine(config)
    engine.info = replace(engine.info, model_fingerprint=f"model {_num_earlier(path)}")
    return engine
