"""The real vLLM, killed, stopped and out of memory: every answer is there and is the undisturbed one.

One engine for the first two, since each of its deaths costs a load of the model (15 s). A request that crashes vLLM
is in faults/test_stops.py, by a whole job.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.open_engine import start_engine
from docmill.engine.supervised_engine import SupervisedEngine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, Engine, Request, Sampling
from docmill.engine.vllm_engine import VllmEngine
from docmill.ops.prompts import Prompts

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

INSTRUCTIONS = ("Translate the document into English. Answer with the translation only.", "Summarize it.")
LABELS = ((10, 11), (10, 12, 13), (20,))


@pytest.fixture(scope="module")
def engine() -> Iterator[SupervisedEngine]:
    config = EngineConfig(hang_seconds=10)  # longer than a step takes on a busy machine
    engine = start_engine(ModelConfig(), config)
    engine.wait_until_loaded()
    assert isinstance(engine, SupervisedEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests(demo_tokenizer: ModelTokenizer) -> list[Request]:
    texts = [f"Guten Tag, die Lampe aus Bestellung {4000 + n} ist beschädigt angekommen." for n in range(60)]
    prompts = Prompts(demo_tokenizer)
    found = []
    for text, token_ids in zip(texts, demo_tokenizer.encode_data(texts), strict=True):
        for task, instruction in enumerate(INSTRUCTIONS):
            prompt = prompts.render(text, token_ids, instruction)
            found.append(Request(f"{len(found)}", prompt, Sampling(64), LABELS if task else None))
    return found


@pytest.fixture(scope="module")
def undisturbed(vllm_engine: VllmEngine, requests: list[Request]) -> dict[str, Completion]:
    return answers(vllm_engine, requests)


def answers(engine: Engine, requests: list[Request], *, within_seconds: float = 400) -> dict[str, Completion]:
    for request in requests:
        engine.submit(request)
    found: dict[str, Completion] = {}
    end = time.monotonic() + within_seconds
    while len(found) < len(requests):
        assert time.monotonic() < end, f"{len(found)} of {len(requests)} within {within_seconds} seconds"
        for completion in engine.completions(timeout_seconds=1):
            assert completion.request_id not in found, "a completion came twice"
            found[completion.request_id] = completion
    return found


def assert_same(found: dict[str, Completion], wanted: dict[str, Completion]) -> None:
    """Tokens equal; log-probabilities to what another batch's rounding changes."""
    assert found.keys() == wanted.keys()
    for name, completion in found.items():
        assert completion.error is None, completion.error
        assert (completion.token_ids, completion.finish_reason) == (
            wanted[name].token_ids,
            wanted[name].finish_reason,
        ), name
        if wanted[name].label_logprobs is not None:
            assert completion.label_logprobs == pytest.approx(wanted[name].label_logprobs, abs=1e-3)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "hung")])
def test_a_signal_in_the_middle_changes_no_answer(
    engine: SupervisedEngine,
    requests: list[Request],
    undisturbed: dict[str, Completion],
    number: signal.Signals,
    kind: str,
) -> None:
    num_incidents = len(engine.incidents)
    pid = engine.process_id
    assert pid is not None
    many = [
        Request(f"{n}/{r.id}", r.prompt_token_ids, r.sampling, r.labels) for n in range(3) for r in requests
    ]
    tokens = engine.num_tokens
    stop = threading.Event()

    def disturb() -> None:
        while engine.num_tokens - tokens < 2000 and not stop.wait(0.01):
            pass
        os.kill(pid, number)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        found = answers(engine, many)
    finally:
        stop.set()
        thread.join()
    (incident,) = engine.incidents[num_incidents:]
    assert incident.kind == kind
    assert 0 < incident.num_in_flight < len(many), "the signal came before or after the work"
    assert sum(completion.attempts == 2 for completion in found.values()) == incident.num_in_flight
    assert not psutil.pid_exists(pid)
    for n in range(3):
        once = {name.split("/")[1]: found[name] for name in found if name.startswith(f"{n}/")}
        assert_same(once, undisturbed)


def test_out_of_memory_lowers_the_batch_and_changes_no_answer(
    vllm_engine: VllmEngine, demo_tokenizer: ModelTokenizer
) -> None:
    """One death is enough: of 2.3 to 2.45 GiB the first batch of 32,768 tokens takes more, half of it less."""
    long = [Request(f"{n}", [20 + (7 * j + n) % 3900 for j in range(1900)], Sampling(2)) for n in range(18)]
    wanted = answers(vllm_engine, long)
    config = EngineConfig(memory_gib=2.4, max_num_batched_tokens=32768)
    engine = start_engine(ModelConfig(), config)
    engine.wait_until_loaded()
    try:
        found = answers(engine, long)
        incidents = engine.incidents
        assert {incident.kind for incident in incidents} == {"out_of_memory"}
        assert incidents[-1].limits["max_num_batched_tokens"] == 32768 >> len(incidents)
        assert incidents[-1].limits["max_num_seqs"] == 64 >> len(incidents)
        assert engine.info.max_num_batched_tokens == 32768 >> len(incidents)
    finally:
        engine.close()
    assert_same(found, wanted)
