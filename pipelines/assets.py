"""A job as Dagster assets, all under the job's name: `documents` -> one asset a task -> `report`.

A job with `model.compress` has one more between `documents` and the tasks, see `compressed_model_asset`.

The tasks and the report are computed by one step, because one pass over the documents answers all tasks together;
each of them can be materialised alone too. Rows that failed are counted and shown. A run with shards that could not
be used writes everything else and then fails: the day stays red until it is run again, which replaces its files.
A run that was killed, terminated or retried goes on where it was: what is finished lies in the output's ledger.
"""

# No `from __future__ import annotations` here: Dagster reads the type of `context` from the function itself.

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    BetaWarning,
    DataVersion,
    Failure,
    FreshnessPolicy,
    MaterializeResult,
    ObserveResult,
    define_asset_job,
    multi_asset,
    multi_observable_source_asset,
)

from docmill.data import storage
from docmill.data.layout import Layout, source_folder
from docmill.data.records import Partition
from docmill.engine.errors import EngineError
from docmill.engine.model_files import source_fingerprint
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.partitions import list_partitions, version_of
from docmill.ops.report import Report
from docmill.ops.sources import ensure_source
from docmill.pipelines import asset_metadata, catalogue
from docmill.pipelines.asset_checks import check_results, check_specs
from docmill.pipelines.asset_keys import COMPRESSED_MODEL, DOCUMENTS, REPORT, all_keys, key_of
from docmill.pipelines.compressed_model_asset import compressed_model_asset
from docmill.pipelines.engine_step import ENGINE_POOL, RETRY, no_retry_when_interrupted, partition_of
from docmill.pipelines.event_log import EventLogProgress, as_failures
from docmill.pipelines.partitions import time_partitions
from docmill.pipelines.report_page import write_report_page
from docmill.pipelines.stop_signals import StopSignals

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

DATA_VERSION_TAG = "dagster/data_version"  # the one tag that Dagster reads an observation's version from
MOST_OBSERVED_DAYS = 100  # of one "Observe" over all days: a listing each


def job_assets(job: Job) -> list[AssetsDefinition]:
    """All assets of a job."""
    found = [documents_asset(job), answer_assets(job)]
    if job.model.compress is not None:
        found.insert(1, compressed_model_asset(job, key_of(job, COMPRESSED_MODEL), key_of(job, DOCUMENTS)))
    return found


def job_run(job: Job) -> "UnresolvedAssetJobDefinition":
    """The Dagster job of the same name: look at the documents, then compute everything. Schedules start this one."""
    return define_asset_job(
        job.name,
        selection=AssetSelection.assets(*all_keys(job)),
        description=job.description or None,
    )


def documents_asset(job: Job) -> AssetsDefinition:
    """The source, which Dagster observes and never computes. A day's version changes when one of its files does."""
    key = key_of(job, DOCUMENTS)
    spec = AssetSpec(
        key,
        description=catalogue.describe_documents(job),
        group_name=job.name,
        owners=job.owners,
        kinds={"parquet"},
        metadata={"uri": job.source.uri},
        skippable=True,  # observing all days at once gives an event a day, and nothing for the asset as a whole
        partitions_def=time_partitions(job),
    )

    def observe(context: AssetExecutionContext) -> Iterator[ObserveResult]:
        with as_failures():
            ensure_source(job)
            if context.has_partition_key or not spec.partitions_def:
                shards = storage.list_shards(source_folder(job.source.uri, partition_of(job, context)))
                yield ObserveResult(
                    asset_key=key,
                    data_version=DataVersion(version_of(shards)),
                    metadata=asset_metadata.documents_metadata(shards),
                )
                return
            days = [day for day in list_partitions(job) if spec.partitions_def.has_partition_key(day)]
            for day in days[-MOST_OBSERVED_DAYS:]:
                shards = storage.list_shards(source_folder(job.source.uri, job.partition(day)))
                context.log_event(
                    AssetObservation(
                        key,
                        partition=day,
                        tags={DATA_VERSION_TAG: version_of(shards)},
                        metadata=asset_metadata.documents_metadata(shards),
                    )
                )

    with warnings.catch_warnings():
        # Both of Dagster's ways to observe a source are "beta" and warn; what we use of it is held by our tests.
        warnings.simplefilter("ignore", BetaWarning)
        decorate = multi_observable_source_asset(name=f"{job.name}__documents", specs=[spec])
    documents: AssetsDefinition = decorate(observe)
    return documents


def answer_assets(job: Job) -> AssetsDefinition:
    """One asset for each task, and the report about them, from one step that takes a place in the engine's pool."""
    documents, report = key_of(job, DOCUMENTS), key_of(job, REPORT)
    tasks = {name: key_of(job, name) for name in job.tasks}
    inputs = [documents, *([key_of(job, COMPRESSED_MODEL)] if job.model.compress else [])]
    freshness = FreshnessPolicy.time_window(job.freshness.within) if job.freshness else None
    specs = [
        AssetSpec(
            key,
            deps=inputs,
            description=catalogue.describe_task(job, name),
            group_name=job.name,
            owners=job.owners,
            freshness_policy=freshness,
            kinds={"vllm", "parquet"},
            code_version=_code_version(job, name),
        )
        for name, key in tasks.items()
    ]
    specs.append(
        AssetSpec(
            report,
            deps=list(tasks.values()),
            description=catalogue.describe_report(job),
            group_name=job.name,
            owners=job.owners,
            freshness_policy=freshness,
            kinds={"json"},
        )
    )

    @multi_asset(
        name=f"{job.name}__answers",
        specs=specs,
        check_specs=check_specs(job, tasks, report),
        can_subset=True,
        partitions_def=time_partitions(job),
        pool=ENGINE_POOL,
        retry_policy=RETRY,
    )
    def answers(
        context: AssetExecutionContext,
    ) -> Iterator[MaterializeResult[Any] | AssetObservation | AssetCheckResult]:
        partition = partition_of(job, context)
        chosen = [name for name, key in tasks.items() if key in context.selected_asset_keys]
        with as_failures(), no_retry_when_interrupted():
            figures = _run(context, job, partition, chosen) if chosen else _last_report(job, partition)
            metadata = {
                tasks[name]: asset_metadata.task_metadata(job, partition, figures, name) for name in chosen
            }
            if report in context.selected_asset_keys:
                metadata[report] = asset_metadata.report_metadata(job, partition, figures)
        if figures.failed_shards:
            yield from _observations(context, metadata)
            raise _shards_failed(figures)
        for key, values in metadata.items():
            yield MaterializeResult(asset_key=key, metadata=values)
        with as_failures():
            yield from check_results(job, partition, figures, tasks, context.selected_asset_check_keys)

    return answers


def _code_version(job: Job, task: str) -> str:
    """Changes with whatever changes the answers: prompt, settings, model; also another model under the same name."""
    if job.engine.kind == "fake":
        return f"{job.answers_hash(task)}-fake"
    try:
        return f"{job.answers_hash(task)}-{source_fingerprint(job.model)}"
    except EngineError:  # the model is not here: a run says so, and `docmill doctor`
        return job.answers_hash(task)


def _run(context: AssetExecutionContext, job: Job, partition: Partition, tasks: list[str]) -> Report:
    ensure_source(job)
    with StopSignals(EventLogProgress(context.log)) as signals:
        report = run_partition(
            job, partition, tasks=tasks, on_progress=signals.on_progress, stop=signals.stop
        )
    write_report_page(job, partition, report)
    return report


def _last_report(job: Job, partition: Partition) -> Report:
    """The report alone was asked for: show again what the last run wrote."""
    return Report.model_validate_json(storage.read_bytes(Layout(job.output.uri, partition).report))


def _observations(
    context: AssetExecutionContext, metadata: dict[AssetKey, Any]
) -> Iterator[AssetObservation]:
    """The figures of a run that is about to fail. Materialisations would turn the day green whatever comes after."""
    partition = context.partition_key if context.has_partition_key else None
    for key, values in metadata.items():
        yield AssetObservation(key, partition=partition, metadata=values)


def _shards_failed(report: Report) -> Failure:
    names = [shard.shard for shard in report.failed_shards]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Failure(
        f"{len(names)} of {report.shards} shards could not be used: {shown}. The answers of the others are written. "
        "Repair or remove the files and run again; the reasons are in the metadata",
        metadata=asset_metadata.failed_shards_metadata(report),
        allow_retries=False,  # the same files would fail again
    )
