"""The last thing a run writes: which answer files belong to a partition. No manifest means never finished.

A run of some of the tasks keeps what the manifest says of the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from docmill.data import storage
from docmill.data.errors import StorageNotFound

log = logging.getLogger(__name__)

MANIFEST_VERSION = 1


class AnswerFile(BaseModel):
    """One output file. `shard_version` is the input it was made from."""

    model_config = ConfigDict(extra="forbid")

    name: str
    rows: int
    shard_version: str


class TaskManifest(BaseModel):
    """What one task's files were made with."""

    model_config = ConfigDict(extra="forbid")

    settings: str  # hash of the task's settings and prompt
    model_fingerprint: str
    finished_at: datetime
    plan: str | None = None  # id of the plan that it was made by
    files: list[AnswerFile] = Field(default_factory=list)
    failed_shards: list[str] = Field(default_factory=list)


class Manifest(BaseModel):
    """All tasks of one partition."""

    model_config = ConfigDict(extra="forbid")

    manifest_version: int = MANIFEST_VERSION
    job: str
    partition: str
    tasks: dict[str, TaskManifest] = Field(default_factory=dict)


def read_manifest(uri: str) -> Manifest | None:
    """The manifest at `uri`, or None where there is none that this version understands."""
    return read_versioned_manifest(uri)[0]


def read_versioned_manifest(uri: str) -> tuple[Manifest | None, str | None]:
    """The manifest and the version of its object, for `replace_manifest`.

    A run reads the old one at its very end; nothing that lies there may cost it its work.
    """
    try:
        content, version = storage.read_versioned(uri)
    except StorageNotFound:
        return None, None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValueError as error:
        log.warning("%s is no manifest of this version, and is written anew: %s", uri, type(error).__name__)
        return None, version
    return (manifest if manifest.manifest_version == MANIFEST_VERSION else None), version


def replace_manifest(uri: str, manifest: Manifest, *, version: str | None) -> bool:
    """One conditional PUT; False where somebody else has written a manifest since `version` was read."""
    return storage.replace_bytes(uri, manifest.model_dump_json(indent=1).encode(), version=version)


def finish_stamp(manifest: Manifest | None, tasks: Iterable[str], plan_id: str) -> str:
    """When these tasks were last finished by this plan; empty where that is not what lies there now.

    A stamp that is not empty and not the one of before means: somebody has finished this very work meanwhile.
    """
    entries = [manifest.tasks.get(name) if manifest else None for name in sorted(tasks)]
    if any(entry is None or entry.plan != plan_id for entry in entries):
        return ""
    return " ".join(entry.finished_at.isoformat() for entry in entries if entry is not None)


def is_committed(uri: str, plan_id: str, tasks: Iterable[str], stamp_before: str) -> bool:
    """Whether these tasks have been finished by this plan since `finish_stamp` was `stamp_before`."""
    stamp = finish_stamp(read_manifest(uri), tasks, plan_id)
    return stamp not in ("", stamp_before)
