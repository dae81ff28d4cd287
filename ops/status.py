"""How far a partition is, for `docmill status`: read from the output's own store, whoever runs it and wherever.

Nothing is asked of the running processes and nothing is written. A partition under way is described by its plan and
ledger, a finished one by its report and dead letters, since its ledger is gone.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from docmill.data import storage
from docmill.data.errors import StorageNotFound
from docmill.data.layout import Layout
from docmill.data.ledger import Beat, Done, Ledger
from docmill.data.manifest import Manifest, read_manifest
from docmill.data.plan import Plan, read_plan
from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.ops.ledger_progress import Standing, read_standing
from docmill.ops.partitions import find_shards, list_partitions
from docmill.ops.report import IncidentReport, Report
from docmill.ops.unit_answers import DEAD_LETTERS

State = Literal[
    "never run",
    "planned",  # no worker has begun: one is loading its model, or the run ended before
    "running",
    "interrupted",  # some units are open and nobody works on them
    "writing",  # all units are done, the manifest is not written: the files are being made, or the run ended before
    "finished",
]


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WorkerStatus(_Figures):
    """A worker that lives, by its latest beat."""

    name: str
    host: str
    rows: int
    prompt_tokens: int
    output_tokens: int
    seconds: float  # since it started, the loading of the model included


class PartitionStatus(_Figures):
    """One partition at one moment. Numbers of a run that was ended stay those of its last moment."""

    job: str
    partition: str
    state: State
    tasks: dict[str, datetime | None]  # of the job -> when last finished
    finished_at: datetime | None = None  # the last run that was finished, maybe of other settings
    units: int = 0
    units_done: int = 0
    units_claimed: int = 0  # by workers that live
    units_left: int = 0
    documents: int = 0
    documents_done: int = 0
    documents_per_second: float | None = (
        None  # of the workers that live; of the whole run once it is finished
    )
    tokens_per_second: float | None = None  # prompt and output
    eta_seconds: float | None = None
    estimated_engine_seconds_left: float = 0.0  # by the plan's rough estimate, of one engine
    workers: list[WorkerStatus] = Field(default_factory=list)  # those that live
    failed_answers: int = 0  # while it runs, of finished units; so are the dead letters
    dead_letters: dict[str, int] = Field(default_factory=dict)  # requests that failed for good, by reason
    incidents: list[IncidentReport] = Field(default_factory=list)


class StatusReader:
    """Looks at one partition, once or again and again; what cannot have changed is read once."""

    def __init__(self, job: Job, partition: Partition):
        self._job, self._partition = job, partition
        self._layout = Layout(job.output.uri, partition)
        self._ledger: Ledger | None = None
        self._finished_units: dict[str, _FinishedUnit] = {}

    def read(self) -> PartitionStatus:
        """How far it is now. Raises `NoShards` for a partition that neither the source nor the output knows."""
        manifest = read_manifest(self._layout.manifest)
        plan, _ = read_plan(self._layout.plan)
        tasks = {name: _finished_at(manifest, name) for name in self._job.tasks}
        status = PartitionStatus(
            job=self._job.name,
            partition=str(self._partition),
            state="never run" if manifest is None else "finished",
            tasks=tasks,
            finished_at=max((at for at in tasks.values() if at), default=None),
        )
        if plan is None and manifest is None:
            if self._job.source.generate is None or list_partitions(self._job):
                find_shards(self._job, self._partition)  # a mistyped day is an error, not "never run"
            return status
        if plan is not None:
            if self._ledger is None or self._ledger.plan.id != plan.id:
                self._ledger, self._finished_units = Ledger(self._layout, plan), {}
            standing = read_standing(
                self._ledger, lease_seconds=self._job.ledger.lease_seconds, now=time.time()
            )
            status.state = _state(self._layout, plan, manifest, standing)
            if status.state != "finished":
                self._add_standing(status, self._ledger, standing)
                return status
            status.units = status.units_done = len(plan.units)
        self._add_report(status)
        return status

    def _add_standing(self, status: PartitionStatus, ledger: Ledger, standing: Standing) -> None:
        status.units, status.units_done = standing.num_units, standing.num_units_done
        status.units_claimed, status.units_left = standing.num_units_claimed, standing.num_units_left
        status.documents, status.documents_done = standing.num_documents, standing.num_documents_done
        status.estimated_engine_seconds_left = standing.estimated_seconds_left
        living = [beat for beat in standing.beats if beat.worker in standing.living]
        status.workers = [_worker(beat) for beat in living]
        if living:
            status.documents_per_second = sum(beat.num_rows_done / _working_seconds(beat) for beat in living)
            status.tokens_per_second = sum(
                (beat.num_prompt_tokens + beat.num_output_tokens) / _working_seconds(beat) for beat in living
            )
        if status.documents_per_second:
            status.eta_seconds = (status.documents - status.documents_done) / status.documents_per_second
        incidents = [incident for beat in standing.beats for incident in beat.figures.get("incidents", ())]
        status.incidents = sorted(map(IncidentReport.model_validate, incidents), key=lambda one: one.at)
        new = ledger.view().done - self._finished_units.keys()
        for done in ledger.read_done(sorted(new)):
            self._finished_units[done.unit_id] = _FinishedUnit.of(done)
        status.failed_answers = sum(unit.num_failed for unit in self._finished_units.values())
        status.dead_letters = dict(
            sum((unit.dead_letters for unit in self._finished_units.values()), Counter[str]())
        )

    def _add_report(self, status: PartitionStatus) -> None:
        status.dead_letters = dict(_count_reasons(self._layout.dead_letters))
        try:
            report = Report.model_validate_json(storage.read_bytes(self._layout.report))
        except (StorageNotFound, ValueError):  # of another version: the rest is worth showing without it
            return
        status.documents = status.documents_done = report.documents
        status.documents_per_second = report.rates.documents_per_second
        status.tokens_per_second = (
            report.rates.prompt_tokens_per_second + report.rates.output_tokens_per_second
        )
        status.failed_answers = sum(task.counts.failed for task in report.tasks.values())
        status.incidents = report.incidents


@dataclass(frozen=True, slots=True)
class _FinishedUnit:
    num_failed: int
    dead_letters: Counter[str]

    @classmethod
    def of(cls, done: Done) -> _FinishedUnit:
        tasks = done.figures.get("tasks", {}).values()
        letters = done.parts.get(DEAD_LETTERS)
        return cls(
            sum(task["counts"]["failed"] for task in tasks),
            _count_reasons(letters) if letters is not None else Counter(),
        )


def _state(layout: Layout, plan: Plan, manifest: Manifest | None, standing: Standing) -> State:
    all_done = standing.num_units_done == standing.num_units
    if standing.living:
        return "writing" if all_done else "running"
    # A ledger that outlived its run, or that of a newer run over the same documents? Both by the store's clock.
    last_beat_at = standing.last_beat_at or 0.0
    by_this_plan = manifest is not None and any(task.plan == plan.id for task in manifest.tasks.values())
    if by_this_plan and last_beat_at <= storage.modified(layout.manifest):
        return "finished"
    if all_done:
        return "writing"
    return "interrupted" if standing.beats or standing.num_units_done else "planned"


def _finished_at(manifest: Manifest | None, task: str) -> datetime | None:
    return manifest.tasks[task].finished_at if manifest is not None and task in manifest.tasks else None


def _worker(beat: Beat) -> WorkerStatus:
    return WorkerStatus(
        name=beat.worker,
        host=beat.worker.rsplit("-", 3)[
            0
        ],  # the pool's name host-pid-number, and the worker's own random part
        rows=beat.num_rows_done,
        prompt_tokens=beat.num_prompt_tokens,
        output_tokens=beat.num_output_tokens,
        seconds=beat.seconds,
    )


def _working_seconds(beat: Beat) -> float:
    model_load: float = beat.figures.get("seconds", {}).get("model_load", 0.0)
    return max(beat.seconds - model_load, 1e-3)


def _count_reasons(uri: str) -> Counter[str]:
    """Of dead letters. Their prompts, which are most of the file, are not read."""
    try:
        with storage.open_input(uri) as stream:
            return Counter(pq.read_table(stream, columns=["reason"]).column("reason").to_pylist())
    except StorageNotFound:
        return Counter()
