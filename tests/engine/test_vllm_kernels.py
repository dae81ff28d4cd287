"""Our kernels inside the real vLLM, here by their twins: they run, they are counted, and the answers stay the same."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from docmill.data.demo import demo_documents
from docmill.engine.config import KERNELS, EngineConfig, ModelConfig
from docmill.engine.model_files import resolve_model
from docmill.engine.open_engine import start_engine
from docmill.engine.quiet import quiet_imports, quiet_libraries
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Completion, Engine, EngineInfo, KernelUse, Load, Request, Sampling
from docmill.ops.prompts import Prompts

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(600)]

TRANSLATE = "Translate the document into English. Answer with the translation only."
LABELS = ((10,), (20,), (30, 31))
NUM_LAYERS = 4  # of the demo model
NUM_PLACES = {"rms_norm_quant": 2 * NUM_LAYERS, "silu_mul_quant": NUM_LAYERS}


class Ran:
    """One engine's answers, and what it said of itself before it was closed."""

    def __init__(self, engine: Engine, requests: Sequence[Request]):
        for request in requests:
            engine.submit(request)
        self.answers: dict[str, Completion] = {}
        while len(self.answers) < len(requests):
            for completion in engine.completions(timeout_seconds=60):
                self.answers[completion.request_id] = completion
        engine.completions(timeout_seconds=1.5)  # counts come with the next beat
        self.info: EngineInfo = engine.info
        self.load: Load = engine.load
        self.num_steps = engine.num_steps

    @property
    def token_ids(self) -> dict[str, tuple[int, ...]]:
        errors = [completion.error for completion in self.answers.values() if completion.error]
        assert not errors, errors[0]
        return {name: completion.token_ids for name, completion in self.answers.items()}


@pytest.fixture(scope="module")
def run() -> Callable[..., Ran]:
    """Each engine once, however many tests look at it."""
    ran: dict[str, Ran] = {}

    def run_once(requests: Sequence[Request], source: str = "demo", **settings: Any) -> Ran:
        key = f"{source} {settings} {len(requests)}"
        if key not in ran:
            config = EngineConfig(max_model_len=512, kv_cache_gib=0.25, **settings)
            engine = start_engine(ModelConfig(source=source), config)
            try:
                engine.wait_until_loaded()
                ran[key] = Ran(engine, requests)
            finally:
                engine.close()
        return ran[key]

    return run_once


@pytest.fixture(scope="module")
def requests(demo_tokenizer: ModelTokenizer) -> list[Request]:
    """Of each document a translation and scores of labels."""
    texts = [document.text for document in demo_documents(seed=5, num_documents=40)]
    prompts = Prompts(demo_tokenizer)
    found = []
    for text, token_ids in zip(texts, demo_tokenizer.encode_data(texts), strict=True):
        prompt = prompts.render(text, token_ids, TRANSLATE)
        found.append(Request(f"{len(found)}", prompt, Sampling(48)))
        found.append(Request(f"{len(found)}", prompt, Sampling(1), LABELS))
    return found


def assert_same_answers(found: Ran, wanted: Ran, not_quantised: Ran) -> None:
    """Tokens equal. Scores differ by less than 8 bits have changed them.

    Where float32 rounds otherwise, some numbers go to the next of the 256, and so do others behind them.
    """
    differing = [name for name, ids in found.token_ids.items() if ids != wanted.token_ids[name]]
    assert not differing, f"{len(differing)} of {len(found.answers)} answers differ: {differing[:5]}"
    assert mean_score_difference(found, wanted) < mean_score_difference(wanted, not_quantised)


def mean_score_difference(one: Ran, other: Ran) -> float:
    """Of the labels' log-probabilities."""
    differences = [
        abs(score - others)
        for name, completion in one.answers.items()
        for score, others in zip(
            completion.label_logprobs or (), other.answers[name].label_logprobs or (), strict=True
        )
    ]
    assert differences
    return statistics.mean(differences)


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_answers_are_the_same_with_our_kernels_and_each_ran_in_each_of_its_places(
    quantization: str, run: Callable[..., Ran], requests: list[Request]
) -> None:
    without = run(requests, quantization=quantization, kernels="off")
    with_kernels = run(requests, quantization=quantization, kernels=KERNELS)
    assert_same_answers(with_kernels, without, run(requests, kernels="off"))
    assert without.load.kernel_calls == {}
    assert without.info.kernels == {}
    assert with_kernels.info.kernels == {
        op: KernelUse(num_places, "native") for op, num_places in NUM_PLACES.items()
    }
    calls = with_kernels.load.kernel_calls
    assert calls["rms_norm_quant"] == 2 * calls["silu_mul_quant"], "a layer has two norms and one activation"
    num_forward_passes = calls["silu_mul_quant"] / NUM_LAYERS
    assert num_forward_passes.is_integer()
    assert 0 < num_forward_passes <= with_kernels.num_steps


def test_an_op_that_is_not_named_stays_out(run: Callable[..., Ran], requests: list[Request]) -> None:
    some = requests[:8]
    ran = run(some, quantization="int8", kernels=("silu_mul_quant",))
    assert ran.info.kernels == {
        "silu_mul_quant": KernelUse(NUM_LAYERS, "native"),
        "rms_norm_quant": KernelUse(reason="not named in `engine.kernels`"),
    }
    assert set(ran.load.kernel_calls) == {"silu_mul_quant"}
    without = run(requests, quantization="int8", kernels="off")
    assert ran.token_ids == {request.id: without.token_ids[request.id] for request in some}


def test_a_model_that_is_not_quantised_has_no_place_for_them(
    run: Callable[..., Ran], requests: list[Request]
) -> None:
    ran = run(requests, kernels=KERNELS)
    reason = "no linear layer of the model takes 8-bit activations"
    assert ran.info.kernels == dict.fromkeys(KERNELS, KernelUse(reason=reason))
    assert ran.load.kernel_calls == {}
    assert ran.token_ids == run(requests, kernels="off").token_ids


def test_they_run_inside_of_a_compiled_model(run: Callable[..., Ran], requests: list[Request]) -> None:
    """As on a GPU: torch.compile traces the layers, and the ops are calls in what it makes."""
    compiled = run(requests, quantization="int8", kernels=KERNELS, extra={"enforce_eager": False})
    without = run(requests, quantization="int8", kernels="off")
    assert_same_answers(compiled, without, run(requests, kernels="off"))
    assert compiled.load.kernel_calls["silu_mul_quant"] >= NUM_LAYERS


@pytest.fixture(scope="module")
def fp8_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo model as llm-compressor's FP8_DYNAMIC would write it: what unmodified vLLM loads."""
    source, target = Path(resolve_model(ModelConfig())), tmp_path_factory.mktemp("fp8") / "model"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.py", "README.md"))
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        tensors[name] = tensor
        if name.endswith("_proj.weight"):
            scales = tensor.float().abs().amax(1, keepdim=True) / 448
            tensors[name] = (tensor.float() / scales).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scales
    save_file(tensors, target / "model.safetensors")
    eight_bits = {"num_bits": 8, "type": "float", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": eight_bits | {"strategy": "channel", "dynamic": False},
        "input_activations": eight_bits | {"strategy": "token", "dynamic": True},
    }
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    (target / "config.json").write_text(json.dumps(config))
    return str(target)


def test_a_quantised_checkpoint_takes_them_and_vllms_own_products_do_the_rest(
    fp8_checkpoint: str, run: Callable[..., Ran], requests: list[Request]
) -> None:
    """Few and short: a product of FP8 takes PyTorch a tenth of a second on a CPU."""
    few = [Request(request.id, request.prompt_token_ids[-40:], Sampling(4)) for request in requests[:4:2]]
    with_kernels = run(few, fp8_checkpoint, kernels=KERNELS)
    assert with_kernels.info.kernels == {op: KernelUse(places, "native") for op, places in NUM_PLACES.items()}
    assert with_kernels.load.kernel_calls["silu_mul_quant"] >= 4 * NUM_LAYERS
    assert with_kernels.token_ids == run(few, fp8_checkpoint, kernels="off").token_ids


def test_layers_of_an_unknown_model_stay_as_they_are() -> None:
    """Its norm may feed two layers, or be added to something, whatever it is called."""

    class LlamaDecoderLayer(torch.nn.Module):
        input_layernorm = post_attention_layernorm = torch.nn.Identity()

    quiet_libraries()
    with quiet_imports():
        from docmill.engine.vllm_layers import fuse
    reason = "the model's layers are not those of Llama, Mistral, Qwen2 or Qwen3"
    assert fuse(torch.nn.Sequential(LlamaDecoderLayer()), KERNELS) == dict.fromkeys(KERNELS, reason)


def test_vllm_finds_the_plugin() -> None:
    (found,) = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "docmill"]
    assert found.value == "docmill.engine.vllm_plugin:register"


@pytest.mark.parametrize(("asked", "registered"), [(None, False), ("0", False), ("1", True)])
def test_the_plugin_does_nothing_unless_docmill_asks(
    asked: str | None, registered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In somebody's own program, in whose environment docmill is merely installed."""
    if asked is not None:
        monkeypatch.setenv("DOCMILL_VLLM_PLUGIN", asked)
    program = (
        "from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS\n"
        "print('docmill_int8' in QUANTIZATION_METHODS, 'docmill_fp8' in QUANTIZATION_METHODS)"
    )
    environment = "VLLM_LOGGING_LEVEL=ERROR"
    command = ["env", environment, sys.executable, "-W", "ignore", "-c", program]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == f"{registered} {registered}"
