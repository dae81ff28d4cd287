"""What a finished run says of itself: the report and the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from docmill.data.ledger import Beat, Ledger
from docmill.data.manifest import Manifest, TaskManifest
from docmill.data.plan import Plan
from docmill.data.records import Partition
from docmill.engine.types import EngineInfo
from docmill.ops import report as reports
from docmill.ops.assembling import Assembled
from docmill.ops.compression.made import figures_of
from docmill.ops.expected import Estimate
from docmill.ops.job import Job
from docmill.ops.near_figures import NearDuplicates
from docmill.ops.report import (
    EngineSettings,
    Idle,
    IncidentReport,
    KernelReport,
    Report,
    Seconds,
    SlowDocument,
    TimelinePoint,
    Tokens,
)
from docmill.ops.slowest import slowest_of
from docmill.ops.stages import Stages
from docmill.ops.worker import WorkerResult

Figures = TypeVar("Figures", Tokens, Idle)


def make_report(
    job: Job,
    partition: Partition,
    ledger: Ledger,
    assembled: Assembled,
    results: list[WorkerResult],
    other_beats: Sequence[Beat],
    *,
    stages: Stages,
    started_at: datetime,
    estimate: Estimate | None = None,
    near_duplicates: NearDuplicates | None = None,
) -> Report:
    """All figures of the run; other workers (of runs that did not end, lost ones) are in the bill.

    Fills in each task's part of it.
    """
    finished_at = reports.now()
    here = [worker.figures for worker in results if worker.figures]
    before = [beat.figures for beat in other_beats if beat.figures]
    info = EngineInfo(**(here or before)[0]["engine"]) if here or before else _no_engine(job)
    spent = {**stages.seconds}
    for figures in here:
        for stage, seconds_spent in figures["seconds"].items():
            spent[stage] = spent.get(stage, 0.0) + seconds_spent
    wall = (finished_at - started_at).total_seconds()
    seconds = Seconds(
        wall=wall, **{name: spent.get(name, 0.0) for name in Seconds.model_fields if name != "wall"}
    )
    computed, idle = _added_up(Tokens(), here, "tokens"), _added_up(Idle(), here, "idle")
    unused = idle.starved + idle.draining + idle.writing
    num_rows = sum(worker.num_rows for worker in results)
    tokens, spared = Tokens(), Tokens()
    for task in assembled.reports.values():
        for name in ("prompt", "cached", "output"):
            setattr(tokens, name, getattr(tokens, name) + getattr(task.tokens, name))
            setattr(spared, name, getattr(spared, name) + getattr(task.spared_tokens, name))
    other_seconds = sum(beat.seconds for beat in other_beats)
    num_engines = max(1, len(here))
    cost = reports.bill(
        assembled.reports,
        documents=assembled.num_documents,
        engine_seconds=wall * num_engines + other_seconds,
        usd_per_hour=job.usd_per_hour(info.device),
    )
    if near_duplicates is not None:
        usd = reports.usd_of_near_duplicates(assembled.reports, near_duplicates, cost)
        near_duplicates = near_duplicates.model_copy(update={"usd": usd})
    return Report(
        job=job.name,
        partition=str(partition),
        started_at=started_at,
        finished_at=finished_at,
        model=info.model,
        model_fingerprint=info.model_fingerprint,
        compressed=figures_of(job),
        engine=info.name,
        engine_settings=EngineSettings(
            hardware=info.hardware,
            max_num_seqs=info.max_num_seqs,
            max_num_batched_tokens=info.max_num_batched_tokens,
            kv_cache_tokens=info.kv_cache_tokens,
            settings=dict(info.settings),
            tuned=dict(info.tuned),
        ),
        kernels=_kernels(here or before),
        max_model_len=info.max_model_len,
        plan=ledger.plan.id,
        shards=len(ledger.plan.shards),
        failed_shards=assembled.failed_shards,
        documents=assembled.num_documents,
        truncated_documents=assembled.num_truncated,
        chunked_documents=assembled.num_chunked,
        requests=sum(task.requests for task in assembled.reports.values()),
        dead_letters=assembled.dead_letters_by_reason.total(),
        dead_letters_by_reason=dict(assembled.dead_letters_by_reason),
        tokens=tokens,
        spared_tokens=spared,
        computed_tokens=_added_up(Tokens(), [*before, *here], "tokens"),
        tasks=assembled.reports,
        workers=num_engines,
        earlier_worker_seconds=other_seconds,
        incidents=_incidents([*before, *here]),
        seconds=seconds,
        idle=idle,
        rates=reports.rates(
            documents=num_rows,
            tokens=computed,
            seconds=seconds,
            num_engines=num_engines,
            full_share=1 - unused / seconds.fed if seconds.fed else 0.0,
        ),
        step_products=[
            sum(column) for column in zip(*(figures["step_products"] for figures in here), strict=True)
        ],
        timeline=[
            TimelinePoint(worker=worker.worker, **point)
            for worker in results
            for point in worker.figures.get("timeline", [])
        ],
        slowest=slowest_of(
            SlowDocument.model_validate(document)
            for figures in here
            for document in figures.get("slowest", [])
        ),
        cost=cost,
        near_duplicates=near_duplicates,
        estimate=estimate,
        peak_memory_mib=reports.peak_memory_mib(),
        machine=reports.this_machine(info.device),
        versions=reports.versions(info.versions),
    )


def add_to_manifest(
    before: Manifest | None, job: Job, partition: Partition, plan: Plan, assembled: Assembled, report: Report
) -> Manifest:
    """Say which files belong to the partition; what it says of tasks that did not run now is kept.

    So is the file of a shard that failed: it lies there as it was, and its `shard_version` tells from which input.
    """
    manifest = before or Manifest(job=job.name, partition=str(partition))
    failed_shards = [failed.shard for failed in report.failed_shards]
    for name, answer_files in assembled.files.items():
        files_before = manifest.tasks[name].files if name in manifest.tasks else []
        kept = [file for file in files_before if file.name in failed_shards]
        manifest.tasks[name] = TaskManifest(
            settings=job.answers_hash(name),
            model_fingerprint=report.model_fingerprint,
            finished_at=report.finished_at,
            plan=plan.id,
            files=sorted([*answer_files, *kept], key=lambda file: file.name),
            failed_shards=failed_shards,
        )
    return manifest


def _no_engine(job: Job) -> EngineInfo:
    """No document could be asked about, so no engine was started."""
    return EngineInfo(
        name=job.engine.kind, model=job.model.source, model_fingerprint="", device="none", max_model_len=0,
        max_num_seqs=0, load_seconds=0.0,
    )  # fmt: skip


def _kernels(figures: Sequence[dict[str, Any]]) -> dict[str, KernelReport]:
    """As the first engine says, which is like the others; their calls together."""
    if not figures:
        return {}
    return {
        op: KernelReport(**use, num_calls=sum(worker["kernel_calls"].get(op, 0) for worker in figures))
        for op, use in figures[0]["engine"]["kernels"].items()
    }


def _added_up(total: Figures, figures: Iterable[dict[str, Any]], key: str) -> Figures:
    """The workers' numbers under this key, by their names."""
    for worker in figures:
        for name, number in worker[key].items():
            setattr(total, name, getattr(total, name) + number)
    return total


def _incidents(figures: Iterable[dict[str, Any]]) -> list[IncidentReport]:
    found = [
        IncidentReport.model_validate(incident) for worker in figures for incident in worker["incidents"]
    ]
    return sorted(found, key=lambda incident: incident.at)
