"""One run over one partition, from shards to answers and report. The heart of docmill; read it first in `ops/`.

    shards --planning--> plan: work units; near-duplicates, where the job wants them
           --pool: workers claim units, see `ops.worker`--> parts, and a mark for each unit that is done
           --assembling--> one Parquet file per (task, shard), atomically
           --reuse--> the requests, for later runs over the same texts
           --> report.json, and last the manifest

Whatever dies on the way, running the partition again does only the rest; running a finished one replaces its files.
Two runs at the same time share the work, and one of them finishes it. Rows and shards that cannot be used are
counted, with reasons; what raises here (`NoShards`, `JobError`, `Stopped`, `StorageError`, `EngineError`) concerns the
run as a whole.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime
from functools import cache, partial

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import Layout, source_folder
from docmill.data.ledger import Ledger
from docmill.data.manifest import (
    Manifest,
    TaskManifest,
    finish_stamp,
    is_committed,
    read_versioned_manifest,
    replace_manifest,
)
from docmill.data.memory import give_back
from docmill.data.plan import Plan, encode_plan, read_plan
from docmill.data.records import Partition, Shard
from docmill.engine.model_files import fingerprint, resolve_model
from docmill.engine.pool.inline_pool import InlinePool
from docmill.engine.pool.open_pool import open_pool
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Engine
from docmill.ops import profile, representatives, reuse
from docmill.ops import report as reports
from docmill.ops.assembling import Assembled, Overtaken, PartsGone, assemble, remove_stale, reopen
from docmill.ops.brake import Brake
from docmill.ops.clean_up import clean_up
from docmill.ops.errors import BudgetSpent, JobError, Stopped
from docmill.ops.expected import read_estimate
from docmill.ops.finish import add_to_manifest, make_report
from docmill.ops.job import Job
from docmill.ops.ledger_progress import LedgerProgress
from docmill.ops.partitions import find_shards
from docmill.ops.planning import (
    Scanned,
    has_changed,
    is_plan_of,
    make_plan,
    scan_shards,
    settings_fingerprint,
)
from docmill.ops.progress import OnProgress, Progress, ignore_progress
from docmill.ops.report import Report
from docmill.ops.stages import Stages
from docmill.ops.tasks.task import Task
from docmill.ops.worker import WorkerResult, WorkOrder, run_worker

log = logging.getLogger(__name__)

MAX_ROUNDS = (
    5  # of working and writing: the source may change meanwhile, or another run remove what it has finished
)


def run_partition(
    job: Job,
    partition: Partition,
    *,
    tasks: list[str] | None = None,
    engine: Engine | None = None,
    tokenizer: ModelTokenizer | None = None,
    on_progress: OnProgress = ignore_progress,
    stop: threading.Event | None = None,
) -> Report:
    """Answer the job's tasks (or only those named) about every document of the partition.

    Engines are opened by the workers and closed again; one that is given is used inline and stays open. Setting
    `stop` ends the run cleanly within half a minute: it raises `Stopped`. Raises for what concerns the whole run only.
    """
    started_at = reports.now()
    chosen = choose_tasks(job, tasks)
    storage.check_reachable(job.source.uri)
    shards = find_shards(job, partition)
    layout = Layout(job.output.uri, partition)
    storage.check_writable(layout.internal_folder)
    manifest, _ = read_versioned_manifest(layout.manifest)
    check_owner(job, manifest)
    stages = Stages()
    on_progress(Progress("planning", 0, None, 0, 0, 0.0))
    model_fingerprint = model_fingerprint_of(job, engine)
    settings = settings_fingerprint(job, chosen, model_fingerprint)
    keys = reuse.task_keys(job, chosen, model_fingerprint)
    results: list[WorkerResult] = []
    for _ in range(MAX_ROUNDS):
        # What was scanned, 24 bytes a row, and sketched goes before the work begins.
        with stages.measure("planning"), representatives.sketches_for(job) as sketches:
            scan = cache(partial(scan_shards, job, shards, sketches))
            plan = _settle_plan(job, layout, shards, scan, chosen, settings)
            ledger = Ledger(layout, plan)
            finished_before = finish_stamp(manifest, chosen, plan.id)
            if _was_finished(ledger, finished_before):
                log.info("job=%s partition=%s was finished by a run that died after it", job.name, partition)
                return _end(ledger, job)
            near, asked = representatives.settle(job, layout, plan, chosen, model_fingerprint, sketches, scan)
            reused = reuse.take_over(job, layout, plan, keys, asked)
            scan.cache_clear()
            del asked
        give_back()
        order = WorkOrder(
            job, partition, list(chosen), plan, model_fingerprint, finished_before, reused, near.folder
        )
        committed = partial(is_committed, layout.manifest, plan.id, list(chosen), finished_before)
        results += _run_workers(
            order, ledger, committed, engine, tokenizer, on_progress, stop or threading.Event()
        )
        shards_now = storage.list_shards(source_folder(job.source.uri, partition))
        if has_changed(plan, shards_now) and not committed():
            shards = shards_now
            log.warning(
                "job=%s partition=%s the source has changed meanwhile: planned anew", job.name, partition
            )
            continue
        before, version = read_versioned_manifest(layout.manifest)
        if committed():
            log.info("job=%s partition=%s another run has finished it meanwhile", job.name, partition)
            return _end(ledger, job)
        on_progress(_all_done(plan, results, started_at))
        give_back()
        try:
            with stages.measure("assembling"):
                overtaken = partial(_is_overtaken, layout, before, chosen)
                assembled = assemble(ledger, chosen, overtaken=overtaken)
                remove_stale(layout, job.name, chosen, plan.shards, overtaken=overtaken)
        except Overtaken:
            if committed():
                return _end(ledger, job)
            continue
        except PartsGone as error:
            if committed():
                return _end(ledger, job)
            log.warning("job=%s partition=%s %s: they are worked on again", job.name, partition, error)
            reopen(ledger, error)
            continue
        ours = {worker.worker for worker in results}
        others = [beat for beat in ledger.read_beats(ledger.view().beats) if beat.worker not in ours]
        report = make_report(
            job,
            partition,
            ledger,
            assembled,
            results,
            others,
            stages=stages,
            started_at=started_at,
            estimate=read_estimate(layout.estimate, plan_id=plan.id, after=_last_finish(before, chosen)),
            near_duplicates=near.figures,
        )
        reuse.keep(job, ledger, keys)  # before the manifest: after it, another run may clean up
        if _commit(layout, job, partition, plan, assembled, report, before, version):
            profile.learn(job, report, profile.worker_lengths(worker.figures for worker in results))
            clean_up(ledger, lease_seconds=job.ledger.lease_seconds)
            log.info("job=%s partition=%s documents=%d seconds=%.1f",
                     job.name, partition, report.documents, report.seconds.wall)  # fmt: skip
            return report
        if committed():
            return _end(ledger, job)
    raise Stopped(f"the source or the output were changed by others {MAX_ROUNDS} times meanwhile", 0)


def _was_finished(ledger: Ledger, finished: str) -> bool:
    """Whether a run by this ledger wrote the manifest, and died before it had cleaned up."""
    origin = ledger.begin(finished)
    return origin.plan == ledger.plan.id and origin.finished != finished != ""


def _end(ledger: Ledger, job: Job) -> Report:
    """Somebody else has finished the work."""
    clean_up(ledger, lease_seconds=job.ledger.lease_seconds)
    return Report.model_validate_json(storage.read_bytes(ledger.layout.report))


def choose_tasks(job: Job, names: list[str] | None) -> dict[str, Task]:
    """The tasks of these names, all for None. Raises `JobError` for one that the job does not have."""
    unknown = sorted(set(names or ()) - set(job.tasks))
    if unknown:
        raise JobError(
            job.name, [f"no task {', '.join(map(repr, unknown))}; the job has {', '.join(job.tasks)}"]
        )
    return {name: task for name, task in job.tasks.items() if names is None or name in names}


def check_owner(job: Job, manifest: Manifest | None) -> None:
    """Raises `JobError` where the output is another job's: two jobs with one would overwrite each other's answers."""
    if manifest is not None and manifest.job != job.name:
        raise JobError(
            job.name,
            [f"output.uri: {job.output.uri} holds the answers of job {manifest.job!r}; choose another"],
        )


def model_fingerprint_of(job: Job, engine: Engine | None = None) -> str:
    """Of the given engine's model, or of the one that the job would load."""
    if engine is not None:
        return engine.info.model_fingerprint
    if job.engine.kind == "fake":
        return job.engine.kind
    return fingerprint(resolve_model(job.model), job.model.revision)


def _settle_plan(
    job: Job,
    layout: Layout,
    shards: list[Shard],
    scan: Callable[[], list[Scanned]],
    tasks: dict[str, Task],
    settings: str,
) -> Plan:
    """The stored plan where it is still right; else a new one, put where workers and `docmill status` find it.

    Finished units of the plan before count for the new one where they are the same.
    """
    plan: Plan | None = None
    while True:
        stored, version = read_plan(layout.plan)
        if stored is not None and is_plan_of(stored, shards, fingerprint=settings):
            return stored
        plan = plan or make_plan(job, layout.partition, shards, scan(), tasks, fingerprint=settings)
        if stored is not None and stored.id == plan.id:
            return stored
        if storage.replace_bytes(layout.plan, encode_plan(plan), version=version):
            return plan


def _run_workers(
    order: WorkOrder,
    ledger: Ledger,
    committed: Callable[[], bool],
    engine: Engine | None,
    tokenizer: ModelTokenizer | None,
    on_progress: OnProgress,
    stop: threading.Event,
) -> list[WorkerResult]:
    """Returns when every unit is done. Raises `Stopped` where the run was asked to end before."""
    job = order.job
    brake, reason = Brake(job, ledger), None
    inline = engine is not None or job.pool.kind == "inline"
    progress = LedgerProgress(ledger, on_progress, lease_seconds=job.ledger.lease_seconds)
    ended = threading.Event()  # what workers look at: the caller's wish, or ours

    def on_poll() -> None:
        nonlocal reason
        reason = reason or brake.reason()
        if reason is not None or stop.is_set():
            ended.set()
        # A worker that is frozen would otherwise be waited for, though others have done its units.
        if not inline and progress.show():
            ended.set()

    try:
        if inline:
            work = partial(run_worker, order, engine=engine, tokenizer=tokenizer, on_progress=on_progress)
            result = InlinePool().run(work, on_poll=on_poll, stop=ended)
        else:
            pool = open_pool(
                job.pool, tensor_parallel_size=job.engine.tensor_parallel_size, device=job.engine.device
            )
            result = pool.run(partial(run_worker, order), on_poll=on_poll, stop=ended)
    except StorageNotFound:
        if not committed():
            raise
        return []  # another run has finished, and removed what a worker was about to read
    for lost in result.lost:
        log.warning(
            "job=%s partition=%s worker=%s lost: %s", job.name, order.partition, lost.name, lost.reason
        )
    view = ledger.view()
    num_left = sum(unit.id not in view.done for unit in ledger.units(view))
    workers: list[WorkerResult] = result.values
    if num_left and not committed() and (ended.is_set() or any(worker.stopped for worker in workers)):
        if reason is not None:
            raise BudgetSpent(reason, num_left)
        raise Stopped("the run was asked to stop", num_left)
    if reason := brake.reason(at_the_end=True):
        raise BudgetSpent(reason, num_left)
    return workers


def _all_done(plan: Plan, results: list[WorkerResult], started_at: datetime) -> Progress:
    tokens = [worker.figures.get("tokens", {}) for worker in results]
    loading = [worker.figures["seconds"].get("model_load", 0.0) for worker in results if worker.figures]
    return Progress(
        "writing",
        plan.num_documents,
        plan.num_documents,
        sum(some.get("output", 0) for some in tokens),
        sum(some.get("prompt", 0) for some in tokens),
        (reports.now() - started_at).total_seconds() - max(loading, default=0.0),
    )


def _is_overtaken(layout: Layout, before: Manifest | None, tasks: Collection[str]) -> bool:
    """Whether another run, of whatever settings, has finished one of these tasks since the manifest was `before`."""
    return _entries(read_versioned_manifest(layout.manifest)[0], tasks) != _entries(before, tasks)


def _last_finish(manifest: Manifest | None, tasks: Collection[str]) -> datetime | None:
    return max((entry.finished_at for entry in _entries(manifest, tasks) if entry is not None), default=None)


def _entries(manifest: Manifest | None, tasks: Collection[str]) -> list[TaskManifest | None]:
    return [manifest.tasks.get(name) if manifest else None for name in tasks]


def _commit(
    layout: Layout,
    job: Job,
    partition: Partition,
    plan: Plan,
    assembled: Assembled,
    report: Report,
    before: Manifest | None,
    version: str | None,
) -> bool:
    """Write the report, and last the manifest. False where another run of these tasks was faster.

    Then files of both may lie in the output: they are to be written again, by whoever comes last.
    """
    storage.put_bytes(layout.report, report.model_dump_json(indent=1).encode())
    entries = _entries(before, assembled.files)
    while _entries(before, assembled.files) == entries:
        manifest = add_to_manifest(before, job, partition, plan, assembled, report)
        if replace_manifest(layout.manifest, manifest, version=version):
            return True
        before, version = read_versioned_manifest(layout.manifest)
    return False
