"""The real vLLM behind the `Engine` protocol, with the bundled demo model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.errors import EngineConfigError, ModelError
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, Engine, Request, Sampling
from docmill.engine.vllm_engine import VllmEngine
from docmill.ops.expected_steps import EngineLimits, ExpectedRequest, num_steps, work_by_task
from docmill.ops.prompts import Prompts

pytestmark = pytest.mark.vllm

TEXT = "Guten Tag, die Lampe aus Bestellung 4711 ist beschädigt angekommen."
TRANSLATE = "Translate the document into English. Answer with the translation only."


def answers(engine: Engine, requests: list[Request]) -> dict[str, Completion]:
    """Submit all, take until each has its completion."""
    for request in requests:
        engine.submit(request)
    found: dict[str, Completion] = {}
    while len(found) < len(requests):
        for completion in engine.completions(timeout_seconds=60):
            assert completion.request_id not in found, "a completion came twice"
            found[completion.request_id] = completion
    return found


@pytest.fixture
def prompt(demo_tokenizer: ModelTokenizer) -> list[int]:
    return Prompts(demo_tokenizer).render(TEXT, demo_tokenizer.encode_data([TEXT])[0], TRANSLATE)


def test_it_says_what_runs(vllm_engine: VllmEngine) -> None:
    info = vllm_engine.info
    assert (info.name, info.model, info.max_model_len) == ("vllm", "demo", 2048)
    assert info.load_seconds > 0
    assert info.versions["torch"]


def test_the_same_prompt_gives_the_same_answer_alone_or_in_company(
    vllm_engine: VllmEngine, demo_tokenizer: ModelTokenizer, prompt: list[int]
) -> None:
    alone = answers(vllm_engine, [Request("alone", prompt, Sampling(64))])["alone"]
    assert alone.error is None
    assert alone.finish_reason == "stop"
    assert "4711" in demo_tokenizer.decode(alone.token_ids)
    others = [Request(f"other-{n}", prompt[: 20 + n % 20], Sampling(1 + n)) for n in range(60)]
    crowd = answers(vllm_engine, [*others, Request("again", prompt, Sampling(64))])
    assert crowd["again"].token_ids == alone.token_ids
    assert len(crowd) == 61


def test_a_prompt_seen_before_is_taken_from_the_prefix_cache(
    vllm_engine: VllmEngine, prompt: list[int]
) -> None:
    long_prompt = prompt * 4
    answers(vllm_engine, [Request("first", long_prompt, Sampling(1))])
    second = answers(vllm_engine, [Request("second", long_prompt, Sampling(1))])["second"]
    assert second.usage.num_prompt_tokens == len(long_prompt)
    assert second.usage.num_cached_tokens >= len(long_prompt) - 64


def test_a_cut_off_answer_says_so(vllm_engine: VllmEngine, prompt: list[int]) -> None:
    short = answers(vllm_engine, [Request("short", prompt, Sampling(3))])["short"]
    assert (short.finish_reason, len(short.token_ids)) == ("length", 3)


def test_bad_requests_come_back_with_a_reason_and_harm_nobody(
    vllm_engine: VllmEngine, prompt: list[int]
) -> None:
    found = answers(
        vllm_engine,
        [
            Request("good", prompt, Sampling(8)),
            Request("too long", [5] * 3000, Sampling(8)),
            Request("empty", [], Sampling(8)),
            Request("no such token", [10**6], Sampling(8)),
            Request("bad sampling", prompt, Sampling(8, temperature=-1.0)),
            Request("good too", prompt, Sampling(8)),
        ],
    )
    assert found["good"].token_ids == found["good too"].token_ids
    assert found["good"].error is None
    reasons = {name: completion.error.reason for name, completion in found.items() if completion.error}
    assert reasons == {
        "too long": "prompt_too_long",
        "empty": "rejected",
        "no such token": "rejected",
        "bad sampling": "rejected",
    }
    assert "2048" in str(found["too long"].error)


def test_label_scores_are_the_models_own_probabilities(vllm_engine: VllmEngine, prompt: list[int]) -> None:
    """Over the whole vocabulary the scores of all one-token labels add up to one."""
    vocabulary = tuple((token_id,) for token_id in range(4096))
    scored = answers(vllm_engine, [Request("all", prompt, Sampling(1), vocabulary)])["all"].label_logprobs
    assert scored is not None
    assert sum(map(math.exp, scored)) == pytest.approx(1.0, abs=1e-4)
    best = max(range(4096), key=scored.__getitem__)
    greedy = answers(vllm_engine, [Request("greedy", prompt, Sampling(1))])["greedy"]
    assert greedy.token_ids == (best,)


def test_labels_of_several_tokens_score_as_the_product_of_what_tells_them_apart(
    vllm_engine: VllmEngine, prompt: list[int]
) -> None:
    labels = ((10, 11), (10, 12, 13), (20,))
    whole = answers(vllm_engine, [Request("whole", prompt, Sampling(1), labels)])["whole"]

    def next_logprob(prefix: tuple[int, ...], token_id: int) -> float:
        request = Request("step", [*prompt, *prefix], Sampling(1), ((token_id,), (21,)))
        scored = answers(vllm_engine, [request])["step"].label_logprobs
        assert scored is not None
        return scored[0]

    begun = next_logprob((), 10)
    expected = [begun + next_logprob((10,), 11), begun + next_logprob((10,), 12), next_logprob((), 20)]
    assert whole.label_logprobs == pytest.approx(expected, abs=1e-4)


def test_json_answers_are_held_to_their_schema(
    vllm_engine: VllmEngine, demo_tokenizer: ModelTokenizer, prompt: list[int]
) -> None:
    """The demo model never learned JSON; the engine's grammar leaves it no other choice."""
    schema = '{"enum": ["yes", "no"]}'
    completion = answers(vllm_engine, [Request("json", prompt, Sampling(8, json_schema=schema))])["json"]
    assert completion.error is None
    assert demo_tokenizer.decode(completion.token_ids).strip() in ('"yes"', '"no"')


def test_stop_strings_end_an_answer(
    vllm_engine: VllmEngine, demo_tokenizer: ModelTokenizer, prompt: list[int]
) -> None:
    completion = answers(vllm_engine, [Request("stop", prompt, Sampling(64, stop=("4711",)))])["stop"]
    assert completion.finish_reason == "stop"
    whole = answers(vllm_engine, [Request("whole", prompt, Sampling(64))])["whole"]
    assert len(completion.token_ids) < len(whole.token_ids)


def test_nothing_to_do_costs_no_busy_seconds(vllm_engine: VllmEngine) -> None:
    before = vllm_engine.busy_seconds
    assert vllm_engine.completions(timeout_seconds=0.3) == []
    assert vllm_engine.busy_seconds == before
    assert vllm_engine.num_in_flight == 0


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-model")
    with pytest.raises(ModelError, match="no such folder.*owner/model"):
        VllmEngine(ModelConfig(source=missing), EngineConfig())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        VllmEngine(ModelConfig(source=str(tmp_path / "empty")), EngineConfig())


def test_the_cpu_build_refuses_to_be_a_gpu() -> None:
    with pytest.raises(EngineConfigError, match=r"docmill\[gpu\]"):
        VllmEngine(ModelConfig(), EngineConfig(device="cuda"))


def test_a_setting_that_vllm_does_not_know_is_named() -> None:
    with pytest.raises(EngineConfigError, match="max_num_sequences"):
        VllmEngine(ModelConfig(), EngineConfig(extra={"max_num_sequences": 3}))


def test_its_load_tells_what_it_computes_and_what_waits(vllm_engine: VllmEngine) -> None:
    before = vllm_engine.load
    requests = [Request(f"load-{n}", [7 + n % 50, *range(100, 180)], Sampling(200)) for n in range(200)]
    for request in requests:
        vllm_engine.submit(request)
    seen, found = [], []
    while len(found) < len(requests):
        found += vllm_engine.completions(timeout_seconds=60)
        seen.append(vllm_engine.load)
    assert max(load.num_running for load in seen) == vllm_engine.info.max_num_seqs
    assert max(load.num_waiting for load in seen) > 0
    assert 0 < max(load.kv_cache_used for load in seen) < 1
    load = vllm_engine.load
    assert (load.num_running, load.num_waiting) == (0, 0)
    usages = [completion.usage for completion in found]
    computed = sum(usage.num_prompt_tokens - usage.num_cached_tokens for usage in usages)
    assert load.num_prompt_tokens - before.num_prompt_tokens == computed
    assert load.num_output_tokens - before.num_output_tokens == sum(u.num_output_tokens for u in usages)


def test_steps_hold_what_was_expected_of_them(
    vllm_engine: VllmEngine, demo_tokenizer: ModelTokenizer
) -> None:
    """What `docmill plan` takes for the work of these requests is what vLLM notes of it, step by step."""
    info, before, first_step = vllm_engine.info, vllm_engine.load.steps, vllm_engine.num_steps
    texts = [
        f"Bestellung {number}. " + "Die Lampe ist beschädigt angekommen. " * (number % 40)
        for number in range(200)
    ]
    prompts = [list(ids) for ids in demo_tokenizer.encode_data(texts)]
    lengths = [1 + number % 7 for number in range(200)]
    found = answers(
        vllm_engine,
        [
            Request(str(number), ids, Sampling(length))
            for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True))
        ],
    )
    usages = [found[str(number)].usage for number in range(200)]
    expected = [
        ExpectedRequest(
            "t",
            usage.num_prompt_tokens - usage.num_cached_tokens,
            usage.num_cached_tokens,
            usage.num_output_tokens,
        )
        for usage in usages
    ]
    noted = vllm_engine.load.steps.plus(before, times=-1)
    work = work_by_task(expected)["t"]
    assert noted.of("tokens") == work["tokens"]
    assert noted.of("context") == work["context"]
    assert noted.of("pairs") == pytest.approx(work["pairs"], rel=0.05)  # prompts that were cut in two
    assert noted.of("sequences") == pytest.approx(work["sequences"], rel=0.05)
    assert info.max_num_batched_tokens is not None
    assert info.kv_cache_tokens is not None
    limits = EngineLimits(info.max_num_seqs, info.max_num_batched_tokens, info.kv_cache_tokens)
    steps = vllm_engine.num_steps - first_step
    assert noted.of("one") == steps
    assert steps == pytest.approx(num_steps(expected, limits), rel=0.1, abs=2)
    assert 0 < noted.of("seconds") <= vllm_engine.busy_seconds
