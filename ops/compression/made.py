"""The compressed model that runs of a job use, and the figures of how it was made."""

from __future__ import annotations

from dataclasses import dataclass

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.engine.compressed_models import CompressedModel, find_compressed, report_uri
from docmill.engine.compression.config import CompressConfig
from docmill.engine.model_files import source_fingerprint
from docmill.ops.compression.report import CompressionReport
from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.ops.report import CompressedFigures


@dataclass(frozen=True, slots=True)
class Compressed:
    """A model that counts. `made` is False where it was there already."""

    model: CompressedModel
    report: CompressionReport
    made: bool


def config_of(job: Job) -> CompressConfig:
    """Its `model.compress`. Raises `JobError` where it has none."""
    if job.model.compress is None:
        raise JobError(
            job.name, ["the job has no `model.compress`; e.g. `model: {compress: {recipe: auto}}`"]
        )
    return job.model.compress


def find_made(job: Job) -> Compressed | None:
    """The one of its model and settings; None where none was made, or by another version of docmill.

    Raises `JobError` without `model.compress`.
    """
    config = config_of(job)
    model = find_compressed(config, source_fingerprint(job.model))
    if model is None:
        return None
    try:
        report = CompressionReport.model_validate_json(storage.read_bytes(report_uri(config, model)))
    except (ValueError, StorageNotFound):
        return None
    return Compressed(model, report, made=False)


def judged_by(job: Job) -> dict[str, str]:
    """What a model is held to: each task with a hash of its settings. Another prompt asks for another judgement."""
    return {name: job.settings_hash(name) for name in job.tasks}


def figures_of(job: Job) -> CompressedFigures | None:
    """For the report of a run: what its model is; None where it is the source itself."""
    if job.model.compress is None or (found := find_made(job)) is None:
        return None
    report = found.report
    assert report.trial is not None, "only what was judged is published"
    return CompressedFigures(
        recipe=report.recipe,
        setting=report.trial.setting,
        made_at=report.made_at,
        size_ratio=report.size_ratio or 1.0,
        speed_ratio=report.speed_ratio,
        max_drop=report.max_drop,
        drops={name: task.drop for name, task in report.trial.tasks.items()},
        most_drops={name: task.most_drop for name, task in report.trial.tasks.items()},
    )
