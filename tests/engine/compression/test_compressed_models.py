"""Publishing a compressed model, and how it comes to the machine that loads it."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from docmill.data import storage
from docmill.data.errors import StorageError, StorageNotFound
from docmill.data.layout import join
from docmill.engine import compressed_models
from docmill.engine.compressed_models import (
    CompressedModel,
    checkpoint_uri,
    find_compressed,
    local_checkpoint,
    manifest_version,
    publish,
    report_uri,
)
from docmill.engine.compression.config import CompressConfig
from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError
from docmill.engine.model_files import fingerprint, resolve_model, source_fingerprint

SOURCE = ModelConfig()


def config_in(out: str) -> CompressConfig:
    return CompressConfig(recipe="int8", out=out)


def make(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "sub" / "more.json").write_text("{}")
    return folder


def put(
    config: CompressConfig, folder: Path, *, judged: str = "settings", replaced: str | None = ""
) -> CompressedModel:
    if replaced == "":
        replaced = manifest_version(config, source_fingerprint(SOURCE))
    return publish(
        config,
        folder,
        source="demo",
        source_fingerprint=source_fingerprint(SOURCE),
        judged={"english": judged},
        made_at=datetime.now(UTC),
        report=lambda model: model.checkpoint.encode(),
        replaced=replaced,
    )


@pytest.fixture(params=["local", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DOCMILL_MODEL_CACHE", str(tmp_path / "cache"))
    return str(tmp_path / "models") if request.param == "local" else f"memory://{tmp_path.name}/models"


def test_a_job_loads_what_was_published_and_nothing_before(out: str, tmp_path: Path) -> None:
    config = config_in(out)
    model = ModelConfig(compress=config)
    with pytest.raises(ModelError, match="no compressed model has been made of it.*docmill compress"):
        resolve_model(model)
    made = put(config, make(tmp_path / "a"))
    found = Path(resolve_model(model))
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()) == [
        "config.json", "model.safetensors", "sub/more.json",
    ]  # fmt: skip
    assert (found / "model.safetensors").read_bytes() == b"weights"
    assert storage.read_bytes(report_uri(config, made)) == made.checkpoint.encode()
    assert made.num_bytes == sum(file.num_bytes for file in made.files) > len(b"weights")
    # Other settings, or another source model, are another model.
    assert find_compressed(config.model_copy(update={"max_drop": 0.02}), made.source_fingerprint) is None
    assert find_compressed(config, "another") is None


def test_a_new_one_takes_the_old_ones_place_whole(out: str, tmp_path: Path) -> None:
    config = config_in(out)
    old = put(config, make(tmp_path / "a"))
    before = fingerprint(str(local_checkpoint(config, old)), None)
    new = put(config, make(tmp_path / "b", b"others!"), judged="others")
    found = find_compressed(config, new.source_fingerprint)
    assert found == new
    assert found.judged == {"english": "others"}
    assert fingerprint(str(local_checkpoint(config, new)), None) != before
    # Runs that have begun with the old one find its files until there is one more.
    assert storage.list_files(checkpoint_uri(config, old))
    put(config, make(tmp_path / "c", b"thirds!"))
    assert not storage.list_files(checkpoint_uri(config, old))
    assert not storage.exists(report_uri(config, old))
    assert storage.list_files(checkpoint_uri(config, new))


def test_one_that_was_published_while_another_was_made_is_not_replaced(out: str, tmp_path: Path) -> None:
    config = config_in(out)
    before = manifest_version(config, source_fingerprint(SOURCE))
    first = put(config, make(tmp_path / "a"), replaced=before)
    assert put(config, make(tmp_path / "b", b"others!"), replaced=before) == first
    assert storage.list_files(checkpoint_uri(config, first))


def test_of_two_at_the_same_time_one_counts_and_the_other_leaves_nothing(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(out)
    first: list[CompressedModel] = []
    replace = storage.replace_bytes

    def other_is_faster(uri: str, content: bytes, *, version: str | None) -> bool:
        monkeypatch.setattr(compressed_models.storage, "replace_bytes", replace)
        first.append(put(config, make(tmp_path / "b", b"faster.")))
        return replace(uri, content, version=version)

    monkeypatch.setattr(compressed_models.storage, "replace_bytes", other_is_faster)
    assert put(config, make(tmp_path / "a")) == first[0]
    files = [file.uri for file in storage.list_files(join(out, config.key(source_fingerprint(SOURCE))))]
    assert len(files) == 3 + 2  # one checkpoint, its report, the manifest
    assert Path(resolve_model(ModelConfig(compress=config)), "model.safetensors").read_bytes() == b"faster."


def test_a_store_that_fails_leaves_no_half_of_a_model(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(out)
    put_file = storage.put_file

    def fails_in_the_middle(uri: str, local_path: str) -> None:
        if uri.endswith("more.json"):
            raise StorageError(uri, "no room")
        put_file(uri, local_path)

    monkeypatch.setattr(compressed_models.storage, "put_file", fails_in_the_middle)
    with pytest.raises(StorageError, match="no room"):
        put(config, make(tmp_path / "a"))
    assert not storage.list_files(out)


def test_a_fetch_that_is_cut_off_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMILL_MODEL_CACHE", str(tmp_path / "cache"))
    config = config_in(f"memory://{tmp_path.name}/cut")
    made = put(config, make(tmp_path / "a"))
    storage.delete(join(checkpoint_uri(config, made), "model.safetensors"))
    with pytest.raises(StorageNotFound):
        local_checkpoint(config, made)
    assert not list((tmp_path / "cache").iterdir())


def test_files_that_are_not_there_or_not_whole_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_MODEL_CACHE", str(tmp_path / "cache"))
    config = config_in(str(tmp_path / "models"))
    made = put(config, make(tmp_path / "a"))
    shutil.rmtree(checkpoint_uri(config, made))
    with pytest.raises(ModelError, match=r"is not there, though its manifest is.*--again"):
        local_checkpoint(config, made)
    config = config_in(f"memory://{tmp_path.name}/short")
    made = put(config, make(tmp_path / "b"))
    storage.put_bytes(join(checkpoint_uri(config, made), "model.safetensors"), b"wei")
    with pytest.raises(ModelError, match=r"3 bytes came; its manifest says 7"):
        local_checkpoint(config, made)
