"""Opening and writing checkpoints, and the sequences that models are measured on."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest

from docmill.engine.compression.checkpoint import (
    free_memory,
    linear_layers,
    load_model,
    local_source,
    save_model,
    weight_bytes,
)
from docmill.engine.compression.quantised_checkpoint import save_quantised
from docmill.engine.compression.sequences import AskedSequence, batches
from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError
from docmill.engine.model_files import resolve_model

DEMO = Path(resolve_model(ModelConfig()))


def test_what_is_written_is_the_model_and_all_that_belongs_to_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = load_model(DEMO)
    assert len(linear_layers(model)) == 7 * model.config.num_hidden_layers
    save_model(model, DEMO, tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (DEMO, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"} <= names
    assert not any(name.endswith((".py", ".md")) for name in names)
    with pytest.raises(FileExistsError, match="holds files already"):
        save_model(model, DEMO, tmp_path / "out")


def test_a_model_that_nobody_needs_is_gone() -> None:
    model = load_model(DEMO)
    layer = model.get_submodule("model.layers.0")
    layer.register_forward_hook(lambda *_, of=layer: None)  # a cycle
    gone = weakref.ref(model), weakref.ref(layer)
    del model, layer
    free_memory()
    assert [one() for one in gone] == [None, None]


@pytest.mark.parametrize(
    "generation", [None, {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2]}]
)
def test_the_generation_config_is_the_sources_even_where_transformers_would_not_save_it(
    tmp_path: Path, generation: dict[str, object] | None
) -> None:
    source, name = tmp_path / "source", "generation_config.json"
    shutil.copytree(DEMO, source)
    (source / name).unlink()
    if generation:
        (source / name).write_text(json.dumps(generation))
    save_model(load_model(source), source, tmp_path / "saved")
    save_quantised(load_model(source), source, tmp_path / "quantised", formats={}, weights={})
    for folder in (tmp_path / "saved", tmp_path / "quantised"):
        found = json.loads((folder / name).read_text()) if (folder / name).exists() else None
        assert found == generation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["BertModel"]}, "this is BertModel"),
        ({"quantization_config": {"quant_method": "fp8"}}, "is quantised already"),
    ],
)
def test_what_cannot_be_compressed_is_said(tmp_path: Path, change: dict[str, object], said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ModelError, match=said):
        load_model(folder)


@pytest.mark.parametrize(
    ("sizes", "counted"),
    [
        ({"model-1.safetensors": 5, "model-2.safetensors": 7, "consolidated.safetensors": 12}, 12),
        ({"model.safetensors": 5, "consolidated-1.safetensors": 3, "pytorch_model.bin": 5}, 5),
        ({"consolidated.safetensors": 12, "params.json": 1}, 12),
        ({"pytorch_model-1.bin": 5, "pytorch_model-2.bin": 4, "config.json": 1}, 9),
    ],
)
def test_weights_that_a_repository_holds_twice_are_counted_once(
    tmp_path: Path, sizes: dict[str, int], counted: int
) -> None:
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(tmp_path) == counted


def test_mistrals_own_copy_of_the_weights_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import filter_repo_objects

    names = ["config.json", "model-1.safetensors", "consolidated.safetensors", "modeling.py"]
    fetched: list[str] = []

    def fetch(_source: str, *, revision: str | None, **patterns: list[str]) -> str:
        del revision
        fetched.extend(filter_repo_objects(names, **patterns))
        return "folder"

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert local_source(ModelConfig(source="mistralai/some")) == Path("folder")
    assert fetched == ["config.json", "model-1.safetensors"]


def test_batches_hold_every_answer_token_once() -> None:
    sequences = [
        AskedSequence(tuple(range(1, length + 1)), prompt)
        for length, prompt in ((9, 4), (30, 29), (12, 2), (5, 1))
    ]
    found = []
    for batch in batches(sequences, max_tokens=30):
        assert batch.token_ids.numel() <= 30
        for row in range(len(batch.token_ids)):
            length = int(batch.attention_mask[row].sum())
            marked = batch.answer_mask[row].nonzero().flatten() + 1
            found.append((length, batch.token_ids[row][marked].tolist()))
    assert sorted(found) == sorted(
        (len(one.token_ids), list(one.token_ids[one.num_prompt_tokens :])) for one in sequences
    )


def test_a_sequence_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a prompt and an answer"):
        AskedSequence((1, 2, 3), 3)
