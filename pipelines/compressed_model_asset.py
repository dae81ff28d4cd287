"""`compressed_model`: the model that a job with `model.compress` answers with. Made once, then the same every day."""

# No `from __future__ import annotations` here: see `assets`.

from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)

from docmill.engine.compressed_models import checkpoint_uri
from docmill.engine.errors import EngineError
from docmill.engine.model_files import source_fingerprint
from docmill.ops.compression.compress_job import ensure_compressed
from docmill.ops.compression.made import Compressed, config_of
from docmill.ops.job import Job
from docmill.ops.sources import ensure_source
from docmill.pipelines.compression_text import figure_lines, tasks_markdown
from docmill.pipelines.engine_step import ENGINE_POOL, RETRY, no_retry_when_interrupted, partition_of
from docmill.pipelines.event_log import EventLogProgress, EventLogSteps, as_failures
from docmill.pipelines.partitions import time_partitions
from docmill.pipelines.stop_signals import StopSignals


def compressed_model_asset(job: Job, key: AssetKey, documents: AssetKey) -> AssetsDefinition:
    """Made of the documents of the first day that asks for it. Its version changes when another model was made."""

    @asset(
        key=key,
        deps=[documents],
        description=_describe(job),
        group_name=job.name,
        owners=job.owners,
        kinds={"vllm", "huggingface"},
        code_version=_code_version(job),
        partitions_def=time_partitions(job),
        pool=ENGINE_POOL,
        retry_policy=RETRY,
    )
    def compressed_model(context: AssetExecutionContext) -> MaterializeResult[Any]:
        partition = partition_of(job, context)
        with as_failures(), no_retry_when_interrupted():
            ensure_source(job)
            with StopSignals(EventLogProgress(context.log)) as signals:
                made = ensure_compressed(
                    job,
                    partition,
                    tell=EventLogSteps(context.log),
                    on_progress=signals.on_progress,
                    stop=signals.stop,
                )
            context.log.info("made" if made.made else "made before, and used again")
        return MaterializeResult(
            data_version=DataVersion(made.model.checkpoint), metadata=_metadata(job, made)
        )

    return compressed_model


def _code_version(job: Job) -> str | None:
    try:
        return config_of(job).key(source_fingerprint(job.model))
    except EngineError:  # the model is not here: a run says so
        return None


def _describe(job: Job) -> str:
    config = config_of(job)
    return (
        f"`{job.model.source}` made smaller by the recipe `{config.recipe}` on the job's own documents, and held to "
        f"its answers on others: no task loses more than {config.max_drop:.1%} of its quality. Made once, and again "
        "when the model, these settings or a task change."
    )


def _metadata(job: Job, made: Compressed) -> dict[str, Any]:
    report = made.report
    metadata: dict[str, Any] = {
        "made_now": made.made,
        "made_at": MetadataValue.timestamp(made.model.made_at),
        "made_on": report.partition,
        "checkpoint": checkpoint_uri(config_of(job), made.model),
        "bytes": made.model.num_bytes,
        "most_drop": round(max((task.most_drop for task in report.trial.tasks.values()), default=0.0), 5)
        if report.trial
        else None,
        "tasks": MetadataValue.md(tasks_markdown(report)),
        "figures": MetadataValue.text("\n".join(figure_lines(report))),
    }
    if report.size_ratio is not None:
        metadata["size_ratio"] = round(report.size_ratio, 4)
    if report.speed_ratio is not None:
        metadata["speed_ratio"] = round(report.speed_ratio, 4)
    return metadata
