"""What `docmill doctor JOB` looks at of the job itself: its model, whether its stores answer, whether it may write."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from docmill.data import storage
from docmill.data.errors import DataError
from docmill.data.layout import INTERNAL, Layout, join
from docmill.data.records import Partition
from docmill.engine.errors import ModelError
from docmill.engine.model_files import resolve_model
from docmill.ops.job import Job
from docmill.ops.partitions import list_partitions
from docmill.pipelines.findings import Finding


def examine_job(job: Job) -> Iterator[Finding]:
    """Findings about one job. The output is tested by writing and removing one small file."""
    yield _model(job)
    yield _source(job)
    yield _output(job)
    yield _ledger(job)


def _model(job: Job) -> Finding:
    try:
        model = resolve_model(job.model)
    except ModelError as error:
        return Finding("model", "fail", str(error), "correct `model.source`")
    if Path(model).is_dir():
        return Finding("model", "ok", model)
    pinned = "" if job.model.revision else "pin `model.revision`, or the answers change when the model does"
    return Finding(
        "model", "warn" if pinned else "ok", f"{model}, from Hugging Face on the first run", pinned
    )


def _source(job: Job) -> Finding:
    uri = job.source.uri
    try:
        storage.check_reachable(uri)
        days = list_partitions(job)
        if job.source.partition_key is None:
            shards = storage.list_shards(uri)
            found, there = f"{uri}: {len(shards)} shards", bool(shards)
        else:
            found = f"{uri}: {len(days)} {job.source.period.name}s"
            found, there = f"{found}, the last is {days[-1]}" if days else found, bool(days)
    except DataError as error:
        return Finding("source", "fail", str(error), _storage_remedy(error))
    if there:
        return Finding("source", "ok", found)
    if job.source.generate is not None:
        return Finding("source", "ok", f"{uri}: is made by the first run")
    return Finding("source", "fail", found, "check `source.uri` and `source.partition_key`")


def _output(job: Job) -> Finding:
    uri = job.output.uri
    if "://" not in uri:
        there = next(path for path in (Path(uri), *Path(uri).parents) if path.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            return Finding("output", "ok", uri)
        return Finding(
            "output", "fail", f"{there} is no folder that may be written", "change its rights or `output.uri`"
        )
    probe = join(uri, INTERNAL, f"doctor-{uuid.uuid4().hex}")
    try:
        storage.put_bytes(probe, b"docmill doctor")
        storage.delete(probe)
    except DataError as error:
        return Finding("output", "fail", str(error), _storage_remedy(error))
    return Finding("output", "ok", f"{uri}: may be written")


def _ledger(job: Job) -> Finding:
    """Where to look for what a run that died has finished; nothing of it lies on this machine's disk by itself."""
    key = job.source.partition_key
    layout = Layout(job.output.uri, Partition(key, "...") if key else Partition())
    return Finding("ledger", "ok", f"{layout.internal_folder} while a run is under way, see `docmill status`")


def _storage_remedy(error: DataError) -> str:
    return "try again later" if error.retryable else "correct the URI, or the store's environment variables"
