"""Checkpoints without the tokens that a job does not need."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from benchmarks.large_vocabulary import large_checkpoint
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from docmill.data.demo import demo_documents
from docmill.engine.compression.checkpoint import load_model
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.trim import MAP_FILE, needed_tokens, trim
from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError
from docmill.engine.model_files import resolve_model
from docmill.engine.tokenizer import ModelTokenizer

DEMO = Path(resolve_model(ModelConfig()))
DOCUMENTS = [document.text for document in demo_documents(seed=31, num_documents=8)]


def ignore(_what: str, _share: float) -> None:
    pass


def needed(folder: Path, texts: list[str]) -> set[int]:
    tokenizer = ModelTokenizer(ModelConfig(source=str(folder)))
    return needed_tokens(folder, Counter(one for ids in tokenizer.encode_data(texts) for one in ids))


def assert_equal_logits(before: Path, after: Path, old_ids: tuple[int, ...], ids: list[int]) -> None:
    """Of all tokens that stay, to the bit, after each of `ids`, old numbers."""
    new_ids = {old: new for new, old in enumerate(old_ids)}
    with torch.inference_mode():
        found = load_model(after)(torch.tensor([[new_ids[one] for one in ids]])).logits[0]
        expected = load_model(before)(torch.tensor([ids])).logits[0][:, list(old_ids)]
    assert torch.equal(found, expected), f"at most {(found - expected).abs().max()} apart"


def peak_bytes() -> int:
    """The most memory this process has had since `clear_refs` was told 5."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "model"
    large_checkpoint(folder, rows=150_000)
    return folder


def test_150_000_rows_go_without_taking_gigabytes_and_every_setting_follows(
    large: Path, tmp_path: Path
) -> None:
    ids = Tokenizer.from_file(str(large / "tokenizer.json")).encode(" ".join(DOCUMENTS)).ids
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    keep = needed_tokens(large, Counter(ids))
    result = trim(large, tmp_path / "out", keep, tell=ignore)
    assert peak_bytes() - before < 500e6
    assert result.old_ids == tuple(sorted(keep))
    assert (result.num_rows_before, result.num_rows_after) == (150_000, len(keep))
    assert len(keep) < 10_000
    per_row = 64 * 2 * 2  # of the embedding and the head, 16 bits
    assert (result.num_bytes_before, result.num_bytes_after) == (150_000 * per_row, len(keep) * per_row)
    new_ids = {old: new for new, old in enumerate(result.old_ids)}
    for name in ("config.json", "generation_config.json"):
        was, now = (json.loads((folder / name).read_text()) for folder in (large, tmp_path / "out"))
        assert now["eos_token_id"] == [new_ids[one] for one in was["eos_token_id"]]
        assert now["pad_token_id"] == new_ids[was["pad_token_id"]]
        assert now["bos_token_id"] == new_ids[was["bos_token_id"]]
    assert now["suppress_tokens"] == [new_ids[was["suppress_tokens"][0]]]  # the other one is gone
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    tokenizer = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    added = {one["id"] for one in tokenizer["added_tokens"]}
    assert {int(one) for one in settings["added_tokens_decoder"]} == added
    assert not (tmp_path / "out" / "vocab.json").exists()
    assert json.loads((tmp_path / "out" / MAP_FILE).read_text())["old_ids"] == list(result.old_ids)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    weights = load_model(tmp_path / "out", dtype="bfloat16").parameters()
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights)
    assert_equal_logits(large, tmp_path / "out", result.old_ids, ids[:40])


@pytest.fixture(scope="module")
def trimmed_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, ...]]:
    """For documents in German alone, so that a good part can go."""
    out = tmp_path_factory.mktemp("trimmed") / "model"
    german = [
        document.text for document in demo_documents(seed=31, num_documents=30) if document.language == "de"
    ]
    return out, trim(DEMO, out, needed(DEMO, german), tell=ignore).old_ids


def test_logits_of_kept_tokens_are_equal_to_the_bit(trimmed_demo: tuple[Path, tuple[int, ...]]) -> None:
    out, old_ids = trimmed_demo
    [german] = {
        document.text for document in demo_documents(seed=31, num_documents=2) if document.language == "de"
    }
    assert_equal_logits(DEMO, out, old_ids, ModelTokenizer(ModelConfig()).encode_data([german])[0])


def test_what_cannot_be_trimmed_is_said(tmp_path: Path) -> None:
    keep = needed(DEMO, DOCUMENTS)
    with pytest.raises(ValueError, match=r"lack 1 .* '<\|im_end\|>'"):
        trim(DEMO, tmp_path / "out", keep - {2}, tell=ignore)
    with pytest.raises(UnfitError, match="not in the model's vocabulary of 4096, such as 4096"):
        trim(DEMO, tmp_path / "out", {*keep, 4096}, tell=ignore)
    with pytest.raises(UnfitError, match="not in the model's vocabulary"):
        needed_tokens(DEMO, {-1: 3})
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="holds files already"):
        trim(DEMO, tmp_path / "full", keep, tell=ignore)
    shutil.copytree(DEMO, tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        trim(tmp_path / "other", tmp_path / "out", keep, tell=ignore)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(ModelError, match="and the model has 200 rows"):
        needed_tokens(tmp_path / "other", {5: 1})


def test_a_token_that_tokenizer_json_lacks_goes_where_it_is_not_needed_and_is_said_where_it_is(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    shutil.copytree(DEMO, source)
    for name, change in (("config", {"vocab_size": 4100}), ("tokenizer_config", {})):
        content = json.loads((source / f"{name}.json").read_text())
        added = {"added_tokens_decoder": {"2": {"content": "<|im_end|>"}, "4098": {"content": "<|more|>"}}}
        (source / f"{name}.json").write_text(json.dumps(content | (change or added)))
    tensors = load_file(source / "model.safetensors")
    rows = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = torch.cat([rows, rows[:4]])
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    keep = needed(source, DOCUMENTS)
    with pytest.raises(
        ModelError, match=r"tokenizer_config\.json adds a token 4098, and tokenizer\.json has none"
    ):
        trim(source, tmp_path / "out", {*keep, 4098}, tell=ignore)
    assert not (tmp_path / "out").exists()
    result = trim(source, tmp_path / "out", keep, tell=ignore)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["added_tokens_decoder"] == {str(result.old_ids.index(2)): {"content": "<|im_end|>"}}
    assert ModelTokenizer(ModelConfig(source=str(tmp_path / "out"))).encode_data(DOCUMENTS[:1])
