"""Quantised checkpoints in the real vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from asked_demo import DEMO, asked_demo

from docmill.engine.compression.checkpoint import linear_layers, load_model
from docmill.engine.compression.formats import FORMATS
from docmill.engine.compression.layer_groups import layer_groups
from docmill.engine.compression.quantise import quantise
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.open_engine import start_engine
from docmill.engine.types import Request, Sampling

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PLAIN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts = sys.argv[1], json.load(sys.stdin)
llm = LLM(model=folder, enforce_eager=True, max_model_len=512, max_num_seqs=16)
schemes = llm.apply_model(lambda model: {
    name: type(module.scheme).__name__ for name, module in model.named_modules() if hasattr(module, "scheme")
})[0]
outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts],
                       SamplingParams(temperature=0, max_tokens=160), use_tqdm=False)
print(json.dumps([schemes, [list(output.outputs[0].token_ids) for output in outputs]]))
"""


@pytest.fixture(scope="module")
def sequences() -> list[AskedSequence]:
    return asked_demo(5, seed=6)


@pytest.fixture(scope="module")
def mixed(sequences: list[AskedSequence], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a decoder layer in each format, and one as it was."""
    out = tmp_path_factory.mktemp("mixed") / "model"
    groups = layer_groups(linear_layers(load_model(DEMO)))
    precisions = {group: [*FORMATS, None][int(group.split(".")[2])] for group in groups}
    quantise(DEMO, out, precisions, sequences[:6], smooth=True)
    return out


def test_unmodified_vllm_loads_it_and_gives_the_sources_answers(
    mixed: Path, sequences: list[AskedSequence]
) -> None:
    """Plain `vllm.LLM`, in a process that knows nothing of docmill; its dtype is the checkpoint's, bfloat16."""
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_PLUGINS": "",
    }
    prompts = [one.token_ids[: one.num_prompt_tokens] for one in sequences]
    result = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN_VLLM, str(mixed)],
        input=json.dumps(prompts),
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    schemes, answers = json.loads(result.stdout.splitlines()[-1])
    kinds = ["CompressedTensorsW8A8Int8", "CompressedTensorsW8A8Fp8", "CompressedTensorsWNA16"]
    products = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    assert schemes == {f"model.layers.{n}.{product}": kinds[n] for n in range(3) for product in products}
    assert_near(answers, sequences)


def test_docmills_engine_takes_the_dtype_that_it_needs(mixed: Path, sequences: list[AskedSequence]) -> None:
    # In a process of its own: a second vLLM in this one would take the session's engine with it.
    engine = start_engine(ModelConfig(source=str(mixed)), EngineConfig(max_model_len=512))
    try:
        assert engine.wait_until_loaded(120)
        assert engine.info.dtype == "bfloat16"
        for number, one in enumerate(sequences):
            engine.submit(Request(str(number), one.token_ids[: one.num_prompt_tokens], Sampling(160)))
        found: dict[str, list[int]] = {}
        while len(found) < len(sequences):
            for completion in engine.completions(timeout_seconds=120):
                assert completion.error is None
                found[completion.request_id] = list(completion.token_ids)
        assert_near([found[str(number)] for number in range(len(sequences))], sequences)
    finally:
        engine.close()


def assert_near(answers: list[list[int]], sequences: list[AskedSequence]) -> None:
    """At most one of the fifteen differs from the source model's own."""
    expected = [list(one.token_ids[one.num_prompt_tokens :]) for one in sequences]
    differing = [
        number
        for number, (answer, own) in enumerate(zip(answers, expected, strict=True))
        if _text(answer) != _text(own)
    ]
    assert len(differing) <= 1, f"{len(differing)} of {len(expected)} answers differ: {differing}"


def _text(answer: list[int]) -> list[int]:
    """Without the end token, which docmill's engine keeps to itself."""
    return [token for token in answer if token != 2]
