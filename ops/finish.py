"""What a finished run says of itself: the report and the manifest."""

from __future__ import annotations

from datetime import datetime

from docmill.data.layout import Layout
from docmill.data.manifest import Manifest, TaskManifest, read_manifest
from docmill.data.records import Partition, Usage
from docmill.engine.types import EngineInfo
from docmill.ops import report as reports
from docmill.ops.answer_files import AnswerFiles, Place
from docmill.ops.dialogues import Dialogues
from docmill.ops.job import Job
from docmill.ops.report import Report, Seconds, Tokens
from docmill.ops.stages import Stages


def make_report(
    job: Job,
    partition: Partition,
    info: EngineInfo,
    files: AnswerFiles,
    dialogues: Dialogues[Place],
    *,
    stages: Stages,
    started_at: datetime,
    num_shards: int,
) -> Report:
    """All figures of the run. Also puts each task's requests and its part of the bill into `files.reports`."""
    finished_at = reports.now()
    spent = stages.seconds
    seconds = Seconds(
        wall=(finished_at - started_at).total_seconds(),
        model_load=spent["model_load"],
        read=spent["read"],
        prepare=spent["prepare"],
        tokenise=spent["tokenise"],
        engine=spent["engine"],
        write=spent["write"],
    )
    tokens = _tokens(dialogues.usage)
    for name, task_report in files.reports.items():
        task_report.requests = dialogues.num_requests[name]
    cost = reports.bill(
        files.reports, documents=files.num_documents, seconds=seconds, usd_per_hour=job.prices.of(info.device)
    )
    return Report(
        job=job.name,
        partition=str(partition),
        started_at=started_at,
        finished_at=finished_at,
        model=info.model,
        model_fingerprint=info.model_fingerprint,
        engine=info.name,
        shards=num_shards,
        failed_shards=files.failed_shards,
        documents=files.num_documents,
        truncated_documents=files.num_truncated,
        chunked_documents=files.num_chunked,
        requests=sum(dialogues.num_requests.values()),
        tokens=tokens,
        tasks=files.reports,
        seconds=seconds,
        rates=reports.rates(documents=files.num_documents, tokens=tokens, seconds=seconds),
        cost=cost,
        peak_memory_mib=reports.peak_memory_mib(),
        machine=reports.this_machine(info.device),
        versions=reports.versions(info.versions),
    )


def _tokens(usage: Usage) -> Tokens:
    return Tokens(
        prompt=usage.num_prompt_tokens, cached=usage.num_cached_tokens, output=usage.num_output_tokens
    )


def make_manifest(
    job: Job, partition: Partition, layout: Layout, files: AnswerFiles, report: Report
) -> Manifest:
    """Say which files belong to the partition; what it says of tasks that did not run now is kept.

    So is the file of a shard that failed: it lies there as it was, and its `shard_version` tells from which input.
    """
    manifest = read_manifest(layout.manifest) or Manifest(job=job.name, partition=str(partition))
    failed_shards = [failed.shard for failed in report.failed_shards]
    for name, answer_files in files.files.items():
        before = manifest.tasks[name].files if name in manifest.tasks else []
        kept = [file for file in before if file.name in failed_shards]
        manifest.tasks[name] = TaskManifest(
            settings=job.settings_hash(name),
            model_fingerprint=report.model_fingerprint,
            finished_at=report.finished_at,
            files=sorted([*answer_files, *kept], key=lambda file: file.name),
            failed_shards=failed_shards,
        )
    return manifest
