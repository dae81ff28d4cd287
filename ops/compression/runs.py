"""Runs of a job over one half of its sample, with the source model or another. Their answers are thrown away."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.data.records import Partition, Status
from docmill.engine.config import ModelConfig
from docmill.engine.open_engine import start_engine
from docmill.ops.compression.halves import Halves
from docmill.ops.compression.quality import CERTAINTY, Answered, compare
from docmill.ops.compression.recording import RecordingEngine
from docmill.ops.compression.report import Side, TaskQuality
from docmill.ops.errors import Stopped
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.progress import OnProgress
from docmill.ops.report import Report
from docmill.ops.sample import Sample

WATCH_SECONDS = 0.1


def with_source(model: ModelConfig, folder: Path) -> ModelConfig:
    """The same model in another folder."""
    return model.model_copy(update={"source": str(folder), "revision": None, "compress": None})


class Runs:
    """Runs of the job over one half, with one model or the other. Each opens an engine of its own and closes it."""

    def __init__(self, job: Job, found: Halves, on_progress: OnProgress, stop: threading.Event | None):
        self.job, self._found = job, found
        self._on_progress, self._stop = on_progress, stop
        self._references = job.model.compress.references if job.model.compress else {}

    def record(self, sample: Sample) -> tuple[Report, RecordingEngine]:
        """The source model over the documents to calibrate on."""
        with closing(start_engine(self.job.model.uncompressed, self.job.engine)) as engine:
            engine.wait_until_loaded()
            recording = RecordingEngine(engine)
            report = run_partition(
                sample.job, Partition(), engine=recording, on_progress=self._on_progress, stop=self._stop
            )
            self._heed()
            return report, recording

    def answers_of(self, model: ModelConfig, side: Side) -> dict[str, dict[str, Answered]]:
        """Task -> document -> row, over the held-out documents. Speed, load time and memory are added to `side`."""
        sample = self._found.held_out
        job = sample.job.model_copy(update={"model": model})
        try:
            with _peak_memory() as peak:
                report = run_partition(job, Partition(), on_progress=self._on_progress, stop=self._stop)
            self._heed()
            tokens = report.computed_tokens
            side.load_seconds.append(report.seconds.model_load)
            side.tokens_per_second.append((tokens.prompt + tokens.output) / report.seconds.fed)
            side.peak_memory_mib.append(peak[0] / 2**20)
            return {name: self._rows(name) for name in job.tasks}
        finally:
            storage.delete_folder(job.output.uri)

    def _heed(self) -> None:
        """Raises `Stopped` where it was asked for when a run had nothing left to stop, and so has ended as ever."""
        if self._stop is not None and self._stop.is_set():
            raise Stopped("the run was asked to stop", 0)

    def qualities(
        self,
        right: Mapping[str, dict[str, Answered]],
        answers: Mapping[str, dict[str, Answered]],
        certainty: float = CERTAINTY,
    ) -> dict[str, TaskQuality]:
        """Of every task."""
        return {
            name: compare(
                task,
                right[name],
                answers[name],
                has_references=name in self._references,
                certainty=certainty,
            )
            for name, task in self.job.tasks.items()
        }

    def _rows(self, task: str) -> dict[str, Answered]:
        job, reference = self._found.held_out.job, self._references.get(task)
        column = self.job.tasks[task].columns[0].name
        rows: dict[str, Answered] = {}
        for shard in storage.list_shards(Layout(job.output.uri, Partition()).answers_folder(task)):
            with storage.open_input(shard.uri) as stream:
                table = pq.read_table(stream)
            for row in table.to_pylist():
                answer = row[column] if row["status"] == Status.OK else None
                rows[row[job.source.id_column]] = Answered(answer, row[reference] if reference else None)
        return rows


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Most bytes that the processes below this one have held together; known when the block has ended."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not ended.wait(WATCH_SECONDS):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, name="docmill-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
