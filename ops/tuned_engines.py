"""Where the settings lie that `docmill tune` has found: one JSON file in the output, for every machine that runs there.

The engine's own process picks those that are for its model and device (`engine.tuned`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, Field

from docmill.data import storage
from docmill.data.errors import StorageError, StorageNotFound
from docmill.data.layout import Layout
from docmill.engine.hardware import known_hardware
from docmill.engine.tuned import TunedEngine, place_of
from docmill.ops.job import Job

log = logging.getLogger(__name__)

TUNING_VERSION = 1
WRITE_ATTEMPTS = 5


class _Tuning(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tuning_version: int = TUNING_VERSION
    engines: list[TunedEngine] = Field(default_factory=list)


def read_tuned(output_uri: str) -> list[TunedEngine]:
    """The engines that were tuned; none where the file is of another docmill. Raises `StorageError`."""
    return _read(output_uri)[0].engines


def store_tuned(output_uri: str, engine: TunedEngine) -> None:
    """Add one, in place of what was known of the same place. Raises `StorageError`."""
    _change(output_uri, lambda known: [*(other for other in known if other.place != engine.place), engine])


def forget_tuned(output_uri: str, model_fingerprint: str) -> int:
    """Take out those of one model, on whatever device. Returns how many there were. Raises `StorageError`."""
    known = read_tuned(output_uri)
    number = sum(engine.place.model_fingerprint == model_fingerprint for engine in known)
    if number:
        _change(
            output_uri,
            lambda known: [engine for engine in known if engine.place.model_fingerprint != model_fingerprint],
        )
    return number


def copy_tuned(from_output_uri: str, to_output_uri: str) -> None:
    """Let small runs with an output of their own go with the same settings. Raises `StorageError`."""
    if known := read_tuned(from_output_uri):
        _change(to_output_uri, lambda _: known)


def possible_settings(job: Job, model_fingerprint: str) -> list[Mapping[str, float]]:
    """Settings that may join the job's own in a run; no settings at all is one of the possibilities.

    There is only one where the run would be on this machine and it has no GPU: asking for its name takes seconds.
    """
    hardware = known_hardware(job.engine) if job.pool.kind == "inline" else None
    found: list[Mapping[str, float]] = []
    for engine in read_tuned(job.output.uri):
        here = place_of(
            job.engine, model_fingerprint=model_fingerprint, hardware=hardware or engine.place.hardware
        )
        if engine.place == here:
            found.append(engine.settings)
    return found if found and hardware is not None else [*found, {}]


def _change(output_uri: str, change: Callable[[list[TunedEngine]], list[TunedEngine]]) -> None:
    uri = Layout.tuning(output_uri)
    for _ in range(WRITE_ATTEMPTS):
        tuning, version = _read(output_uri)
        tuning.engines = change(tuning.engines)
        if storage.replace_bytes(uri, tuning.model_dump_json(indent=1).encode(), version=version):
            return
    raise StorageError(uri, f"others changed it {WRITE_ATTEMPTS} times meanwhile; try again")


def _read(output_uri: str) -> tuple[_Tuning, str | None]:
    try:
        content, version = storage.read_versioned(Layout.tuning(output_uri))
    except StorageNotFound:
        return _Tuning(), None
    try:
        tuning = _Tuning.model_validate_json(content)
    except ValueError as error:
        log.warning("what was tuned for %s cannot be read: %s", output_uri, type(error).__name__)
        return _Tuning(), version
    return (tuning if tuning.tuning_version == TUNING_VERSION else _Tuning()), version
