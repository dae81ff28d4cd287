"""Which checkpoint is published, with an engine that answers without a model: who judges says what each one loses."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docmill.data import storage
from docmill.data.records import Partition
from docmill.engine.compression.errors import UnfitError
from docmill.engine.config import ModelConfig
from docmill.engine.errors import EngineError
from docmill.ops.compression.candidates import Candidate, Material
from docmill.ops.compression.compress_job import PAIRS, compress_job, ensure_compressed
from docmill.ops.compression.quality import Answered
from docmill.ops.compression.report import Side, TaskQuality
from docmill.ops.compression.runs import Runs
from docmill.ops.errors import JobError, NotWorthIt, Stopped
from docmill.ops.job import Job
from docmill.ops.progress import Progress

TASK = "english"
Losing = Callable[..., None]


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Losing:
    """Say what each checkpoint loses at most, in the order in which they are judged."""

    def say(*drops: float) -> None:
        left = iter(drops)
        monkeypatch.setattr(Runs, "qualities", lambda *_: {TASK: quality(next(left))})

    return say


def quality(drop: float) -> TaskQuality:
    return TaskQuality(
        metric="chrF",
        against="references",
        documents=100,
        source=1,
        compressed=1 - drop,
        drop=drop,
        most_drop=drop,
        equal_share=0,
    )


def job_of(folder: Path, **compress: Any) -> Job:
    (folder / "documents").mkdir()
    texts = [f"the parcel {number} has not come" for number in range(100)]
    table = pa.table({"doc_id": [str(number) for number in range(100)], "text": texts})
    pq.write_table(table, folder / "documents" / "0.parquet")
    return Job.model_validate(
        {
            "name": "small",
            "source": {"uri": str(folder / "documents"), "partition_key": None},
            "output": {"uri": str(folder / "answers")},
            "model": {"compress": {"max_drop": 0.1, **compress}},
            "engine": {"kind": "fake"},
            "tasks": {TASK: {"kind": "translate"}},
        }
    )


def three(material: Material) -> Iterator[Candidate]:
    """Copies of the model, as no weights are looked at."""
    for number in range(3):
        folder = material.folder / str(number)
        shutil.copytree(material.source, folder)
        (folder / "number.json").write_text(str(number))
        yield Candidate(f"setting {number}", folder)


def published(job: Job) -> list[str]:
    return [file.name for file in storage.list_files(job.output.uri)]


def test_auto_publishes_the_first_that_loses_little_enough(tmp_path: Path, losing: Losing) -> None:
    losing(0.2, 0.05)
    job = job_of(tmp_path, recipe="auto")
    made = compress_job(job, Partition(), make=three)
    assert [trial.setting for trial in made.report.trials] == ["setting 0", "setting 1"]
    assert made.report.trial == made.report.trials[1]
    assert len(made.report.speed_ratios) == len(made.report.before.load_seconds) == PAIRS
    number = next(name for name in published(job) if name.endswith("number.json"))
    assert storage.read_bytes(f"{job.output.uri}/{number}") == b"1"
    assert any(name.endswith("manifest.json") for name in published(job))
    again = ensure_compressed(job, Partition())
    assert (again.made, again.model, again.report) == (False, made.model, made.report)


def test_a_recipe_that_says_what_to_make_is_not_replaced_by_a_weaker_one(
    tmp_path: Path, losing: Losing
) -> None:
    losing(0.2, 0.05)
    job = job_of(tmp_path, recipe="prune")
    with pytest.raises(NotWorthIt, match=r"setting 0.*loses 20\.00%.*setting 1.*loses 5\.00%"):
        compress_job(job, Partition(), make=three)
    assert published(job) == []


def test_one_that_cannot_be_loaded_is_passed_over_and_said(
    tmp_path: Path, losing: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(0.05)
    answers_of = Runs.answers_of

    def fails_once(runs: Runs, model: ModelConfig, side: Side) -> dict[str, dict[str, Answered]]:
        if model.source.endswith("/0"):
            raise EngineError("no kernel for it")
        return answers_of(runs, model, side)

    monkeypatch.setattr(Runs, "answers_of", fails_once)
    made = compress_job(job_of(tmp_path, recipe="auto"), Partition(), make=three)
    assert made.report.published == 1
    assert made.report.trials[0].trouble == "no kernel for it"


def test_nothing_that_holds_is_an_error_and_leaves_nothing(tmp_path: Path, losing: Losing) -> None:
    losing(0.2, 0.3, 0.4)
    job = job_of(tmp_path, recipe="auto")
    with pytest.raises(NotWorthIt, match="no compressed model is published.*held-out documents") as raised:
        compress_job(job, Partition(), make=three)
    assert len(raised.value.report.trials) == 3
    assert published(job) == []


def test_settings_that_do_not_fit_the_model_are_the_jobs_error(tmp_path: Path) -> None:
    def impossible(material: Material) -> Iterator[Candidate]:
        raise UnfitError("6 groups of heads cannot lose 0.9 of them")
        yield Candidate("", material.folder)

    job = job_of(tmp_path, recipe="prune")
    with pytest.raises(JobError, match=r"model\.compress: 6 groups of heads cannot"):
        compress_job(job, Partition(), make=impossible)
    assert published(job) == []


def test_a_stop_that_comes_when_a_run_is_as_good_as_done_is_heeded(tmp_path: Path, losing: Losing) -> None:
    losing(0.05)
    job, stop, written = job_of(tmp_path, recipe="auto"), threading.Event(), []

    def on_progress(progress: Progress) -> None:
        if progress.stage == "writing":
            written.append(progress)
            stop.set()

    with pytest.raises(Stopped):
        compress_job(job, Partition(), make=three, on_progress=on_progress, stop=stop)
    assert written
    assert published(job) == []


def test_another_task_is_judged_anew(tmp_path: Path, losing: Losing) -> None:
    losing(0.05, 0.05)
    job = job_of(tmp_path, recipe="auto")
    first = compress_job(job, Partition(), make=three)
    other = job.model_copy(update={"tasks": {"summaries": job.tasks[TASK]}})
    second = compress_job(other, Partition(), make=three)
    assert second.model.judged.keys() == {"summaries"}
    assert second.model.checkpoint != first.model.checkpoint
    assert second.model.previous == first.model.checkpoint
