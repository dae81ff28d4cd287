"""Models that `docmill compress` has made: where they lie, and how they come to a machine that is to load one.

{out}/{key}/manifest.json          written last, by one conditional PUT: which checkpoint counts, and its files
           /{checkpoint}/...       the Hugging Face checkpoint, any loader's
           /{checkpoint}.json      how it was made and what it lost, see `ops.compression.report`

`key` stands for the source model and the settings, so a model that has changed has no compressed one yet.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import join
from docmill.engine.compression.config import CompressConfig
from docmill.engine.errors import ModelError

CACHE_VARIABLE = "DOCMILL_MODEL_CACHE"  # a folder of this machine, for models that lie in a bucket


class ModelFile(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    name: str
    num_bytes: int


class CompressedModel(BaseModel):
    """What a manifest says."""

    model_config = ConfigDict(extra="forbid")

    source: str  # as `model.source` names it
    source_fingerprint: str
    recipe: str
    judged: dict[str, str]  # task -> hash of its settings
    made_at: datetime
    checkpoint: str  # name of its folder
    previous: str | None = None  # of the one that it replaced, which runs may still be at
    files: list[ModelFile]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)


def find_compressed(config: CompressConfig, source_fingerprint: str) -> CompressedModel | None:
    """The one that counts; None where none was made of this model with these settings."""
    try:
        content = storage.read_bytes(_manifest(config, source_fingerprint))
    except StorageNotFound:
        return None
    try:
        return CompressedModel.model_validate_json(content)
    except ValueError:  # of another version of docmill: made anew
        return None


def checkpoint_uri(config: CompressConfig, model: CompressedModel) -> str:
    """Folder of the checkpoint, as any loader of Hugging Face models takes it."""
    return join(_folder(config, model.source_fingerprint), model.checkpoint)


def report_uri(config: CompressConfig, model: CompressedModel) -> str:
    """Where the report of how it was made lies."""
    return join(_folder(config, model.source_fingerprint), f"{model.checkpoint}.json")


def local_checkpoint(config: CompressConfig, model: CompressedModel) -> Path:
    """Folder of the checkpoint on this machine; one that lies in a bucket is fetched once.

    Raises `StorageError`, and `ModelError` where files are missing; a fetch that is cut off leaves nothing that counts.
    """
    uri = checkpoint_uri(config, model)
    if "://" not in uri or uri.startswith("file://"):
        folder = Path(uri.removeprefix("file://"))
        if not folder.is_dir():
            raise ModelError(
                str(folder), "the compressed model is not there, though its manifest is: is `model.compress.out` a "
                "folder that this machine shares? `docmill compress JOB --again` makes it anew"
            )  # fmt: skip
        return folder
    cache = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "docmill" / "models").expanduser()
    folder = cache / model.checkpoint
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as fetching:
        target = Path(fetching, "checkpoint")
        for file in model.files:
            (target / file.name).parent.mkdir(parents=True, exist_ok=True)
            with storage.open_input(join(uri, file.name)) as stream, (target / file.name).open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 22)
            if (size := (target / file.name).stat().st_size) != file.num_bytes:
                raise ModelError(
                    join(uri, file.name), f"{size:,} bytes came; its manifest says {file.num_bytes:,}. Is somebody "
                    "writing there? `docmill compress JOB --again` makes it anew"
                )  # fmt: skip
        try:
            target.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has fetched it meanwhile
                raise
    return folder


def manifest_version(config: CompressConfig, source_fingerprint: str) -> str | None:
    """Of what counts now, None where nothing does; ask before making another, and give it to `publish`."""
    return _read_versioned(config, source_fingerprint)[1]


def publish(
    config: CompressConfig,
    folder: Path,
    *,
    source: str,
    source_fingerprint: str,
    judged: dict[str, str],
    made_at: datetime,
    report: Callable[[CompressedModel], bytes],
    replaced: str | None,
) -> CompressedModel:
    """Put the checkpoint of a local folder and its report there, and last the manifest, over that of an older one.

    `replaced`: the manifest's version from before the work. Where another process has published since, that one counts,
    and it is returned. Raises `StorageError`, and leaves nothing behind that counts. The older checkpoint stays until
    the next is published, for the runs that have begun with it.
    """
    name = uuid.uuid4().hex
    before = find_compressed(config, source_fingerprint)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    model = CompressedModel(
        source=source,
        source_fingerprint=source_fingerprint,
        recipe=config.recipe,
        judged=judged,
        made_at=made_at,
        checkpoint=name,
        previous=before.checkpoint if before else None,
        files=[
            ModelFile(name=path.relative_to(folder).as_posix(), num_bytes=path.stat().st_size)
            for path in files
        ],
    )
    uri, counts = checkpoint_uri(config, model), False
    try:
        for path, file in zip(files, model.files, strict=True):
            storage.put_file(join(uri, file.name), str(path))
        storage.put_bytes(report_uri(config, model), report(model))
        content = model.model_dump_json(indent=1).encode()
        counts = storage.replace_bytes(_manifest(config, source_fingerprint), content, version=replaced)
    finally:
        if not counts:
            _remove(config, source_fingerprint, name)
    if not counts:
        return find_compressed(config, source_fingerprint) or model
    if before is not None and before.previous is not None:
        _remove(config, source_fingerprint, before.previous)
    return model


def _folder(config: CompressConfig, source_fingerprint: str) -> str:
    assert config.out is not None, "the job fills it in"
    return join(config.out, config.key(source_fingerprint))


def _manifest(config: CompressConfig, source_fingerprint: str) -> str:
    return join(_folder(config, source_fingerprint), "manifest.json")


def _read_versioned(
    config: CompressConfig, source_fingerprint: str
) -> tuple[CompressedModel | None, str | None]:
    try:
        content, version = storage.read_versioned(_manifest(config, source_fingerprint))
    except StorageNotFound:
        return None, None
    try:
        return CompressedModel.model_validate_json(content), version
    except ValueError:
        return None, version


def _remove(config: CompressConfig, source_fingerprint: str, checkpoint: str) -> None:
    """One that does not count."""
    place = join(_folder(config, source_fingerprint), checkpoint)
    storage.delete_folder(place)
    storage.delete(f"{place}.json")
