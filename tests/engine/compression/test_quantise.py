"""Measuring, smoothing and quantising the demo model, and the same function in another dress."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from asked_demo import DEMO, asked_demo

from docmill.engine.compression.checkpoint import ARCHITECTURES, linear_layers, load_model
from docmill.engine.compression.divergence import Reference, final_hidden, kl_sum
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.formats import FORMATS
from docmill.engine.compression.gptq import fitted_weights
from docmill.engine.compression.layer_groups import layer_groups
from docmill.engine.compression.precision import foretell
from docmill.engine.compression.quantise import quantise
from docmill.engine.compression.rounding import RoundedLinear, replaced
from docmill.engine.compression.sensitivity import Sensitivity, measure_sensitivity
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.compression.smoothing import smooth_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOUD = "model.layers.1.mlp.gate_up_proj"


@pytest.fixture(scope="module")
def sequences() -> list[AskedSequence]:
    """Of two documents, with the demo model's answers."""
    return asked_demo(2, seed=5)


@pytest.fixture(scope="module")
def sensitivity(sequences: list[AskedSequence]) -> Sensitivity:
    """Of the demo model."""
    return measure_sensitivity(DEMO, sequences, FORMATS)


@pytest.fixture(scope="module")
def loud_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with one input channel of a product 128 times as large, and its weights so much smaller.

    The same function to the last bit; but 8-bit activations now have 128 times fewer steps for all other channels.
    """
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("loud") / "model"
    shutil.copytree(DEMO, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.post_attention_layernorm.weight"][3] *= 128
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"][:, 3] /= 128
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_layer_made_sensitive_comes_first_and_smoothing_repairs_it(
    loud_model: Path, sequences: list[AskedSequence], sensitivity: Sensitivity
) -> None:
    told: list[float] = []
    loud = measure_sensitivity(loud_model, sequences, ["int8"], tell=lambda _, share: told.append(share))
    smoothed = measure_sensitivity(loud_model, sequences, ["int8"], smooth=True)

    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert max(loud.groups, key=lambda name: loud.groups[name].divergence["int8"]) == LOUD
    assert loud.groups[LOUD].divergence["int8"] > 20 * sensitivity.groups[LOUD].divergence["int8"]
    assert smoothed.groups[LOUD].divergence["int8"] < 0.1 * loud.groups[LOUD].divergence["int8"]
    for name, group in loud.groups.items():
        if name != LOUD:
            expected = sensitivity.groups[name].divergence["int8"]
            assert group.divergence["int8"] == pytest.approx(expected, rel=0.2, abs=1e-7)
    assert loud.groups[LOUD].layers == ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")
    assert loud.groups[LOUD].num_weights == 2 * 192 * 512


def test_tiny_divergences_are_seen_and_large_ones_are_right() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, 4096).double() * 6
    for change in (1e-4, 1e-2, 1.0, 40.0):
        changed = logits + change * torch.randn_like(logits)
        rows = [values.log_softmax(-1) for values in (logits, changed)]
        expected = float(torch.nn.functional.kl_div(rows[1], rows[0], reduction="sum", log_target=True))
        found = float(kl_sum(*(values.float().log_softmax(-1) for values in (logits, changed))))
        assert found == pytest.approx(expected, rel=0.02), change


def small_model(architecture: str, repeats: int) -> PreTrainedModel:
    """Two layers, with biases where there can be; `repeats` query heads read one head of v, and some channels are loud.

    Mistral looks back only 8 tokens.
    """
    import transformers

    torch.manual_seed(repeats)
    kind = architecture.removesuffix("ForCausalLM")
    own = {
        "Llama": {"attention_bias": True, "mlp_bias": True},
        "Mistral": {"sliding_window": 8},
        "Qwen3": {"head_dim": 32},
    }
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4 // repeats,
        **own.get(kind, {}),
    )
    model: PreTrainedModel = getattr(transformers, architecture)(config).eval()
    for layer in linear_layers(model).values():
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias, std=0.1)
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[5] *= 60
        layer.post_attention_layernorm.weight.data[9] *= 60
        layer.self_attn.v_proj.weight.data[3] *= 60
        layer.mlp.up_proj.weight.data[40] *= 60
    return model


@pytest.fixture
def random_sequences() -> list[AskedSequence]:
    generator = torch.Generator().manual_seed(0)
    lengths = [24, 20, 24, 9, 24, 13]
    return [AskedSequence(tuple(torch.randint(96, (n,), generator=generator).tolist()), 4) for n in lengths]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_walk_through_the_layers_measures_what_whole_models_would(
    architecture: str, random_sequences: list[AskedSequence], tmp_path: Path
) -> None:
    model = small_model(architecture, repeats=2)
    model.save_pretrained(tmp_path)
    sensitivity = measure_sensitivity(tmp_path, random_sequences, ["int8", "w4a16"])
    reference = Reference(model, random_sequences)
    assert reference.divergence(model) == 0
    assert len(sensitivity.groups) == 8
    for group in sensitivity.groups.values():
        for form, measured in group.divergence.items():
            weights = fitted_weights(model, reference.batches, dict.fromkeys(group.layers, form))
            rounded = {
                name: RoundedLinear(model.get_submodule(name), form, weight)
                for name, weight in weights.items()
            }
            with replaced(model, rounded):
                assert measured == pytest.approx(reference.divergence(model), rel=1e-3, abs=1e-9)
            assert measured > 0
    assert reference.divergence(model) == 0, "its own layers are back"


@pytest.mark.parametrize("repeats", [1, 2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_smoothing_keeps_the_function_to_the_last_bit(
    architecture: str, repeats: int, random_sequences: list[AskedSequence]
) -> None:
    model = small_model(architecture, repeats)
    reference = Reference(model, random_sequences)
    before = [final_hidden(model, batch) for batch in reference.batches]
    weights = {name: layer.weight.clone() for name, layer in linear_layers(model).items()}
    alpha = smooth_for(model, reference, dict.fromkeys(layer_groups(weights), "int8"))
    assert alpha > 0
    for name, layer in linear_layers(model).items():
        assert not torch.equal(layer.weight, weights[name]), name
    for batch, hidden in zip(reference.batches, before, strict=True):
        assert torch.equal(final_hidden(model, batch), hidden)


def test_what_is_written_says_how_each_layer_is_stored(
    sequences: list[AskedSequence], sensitivity: Sensitivity, tmp_path: Path
) -> None:
    """Layers that vLLM keeps as one product have one scheme; what is left in 16 bits is as it was."""
    from safetensors.torch import load_file

    groups = list(layer_groups(linear_layers(load_model(DEMO))))
    precisions = {group: [*FORMATS, None][number % 4] for number, group in enumerate(groups)}
    done = quantise(DEMO, tmp_path / "out", precisions, sequences, smooth=False)
    assert done.precisions == precisions
    assert done.bits == pytest.approx(foretell(sensitivity, precisions).bits)
    assert 0 < done.divergence < 10 * foretell(sensitivity, precisions).divergence
    assert done.alpha is None

    written = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert written["format"] == "mixed-precision"
    schemes = {
        layer: (group["format"], group["weights"]["num_bits"], group["weights"]["group_size"])
        for group in written["config_groups"].values()
        for layer in group["targets"]
    }
    expected = {
        "int8": ("int-quantized", 8, None),
        "fp8": ("float-quantized", 8, None),
        "w4a16": ("pack-quantized", 4, 64),  # 192 inputs are no multiple of 128
    }
    members = layer_groups(linear_layers(load_model(DEMO)))
    for group, form in precisions.items():
        for layer in members[group]:
            assert schemes.get(layer) == (expected[form] if form else None)
            assert (layer in written["ignore"]) == (form is None)
    assert "lm_head" in written["ignore"]
    source, tensors = load_file(DEMO / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in source.items():
        if not name.endswith("proj.weight") or name.removesuffix(".weight") in written["ignore"]:
            assert torch.equal(tensors[name], tensor)
    assert (
        done.bytes_after == (tmp_path / "out" / "model.safetensors").stat().st_size < 0.8 * done.bytes_before
    )


def test_what_cannot_be_written_is_said_before_anything_is(
    sequences: list[AskedSequence], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files already"):
        quantise(DEMO, tmp_path / "full", {}, sequences, smooth=False)
    with pytest.raises(UnfitError, match="no such group of layers: model.layers.9.mlp.down_proj"):
        quantise(DEMO, tmp_path / "out", {"model.layers.9.mlp.down_proj": "int8"}, sequences, smooth=False)
    with pytest.raises(UnfitError, match="no sequences to measure on"):
        quantise(DEMO, tmp_path / "out", {LOUD: "int8"}, [], smooth=False)
    assert not (tmp_path / "out").exists()


def test_a_divergence_that_is_no_number_is_refused(tmp_path: Path, sequences: list[AskedSequence]) -> None:
    from safetensors.torch import load_file, save_file

    source = tmp_path / "source"
    shutil.copytree(DEMO, source)
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.inf
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnfitError, match=r"q_proj, .* in int8 from the source is nan"):
        measure_sensitivity(source, sequences, ["int8"])
    with pytest.raises(UnfitError, match="of the quantised model from the source is nan"):
        quantise(source, tmp_path / "out", {LOUD: "int8"}, sequences, smooth=False)
    assert not (tmp_path / "out").exists()
