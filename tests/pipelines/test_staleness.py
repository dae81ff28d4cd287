"""Which answers Dagster calls stale, and what it costs to make them fresh."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from dagster import AssetKey, DagsterInstance, Definitions
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from docmill.engine.config import ModelConfig
from docmill.engine.model_files import resolve_model
from docmill.pipelines.assets import answer_assets, job_assets, job_run
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"
WriteJob = Callable[..., Path]


class Dagster:
    """One instance over the job file as it is now."""

    def __init__(self, path: Path, instance: DagsterInstance):
        self.job, self.instance = load_job(str(path)), instance
        self.definitions = Definitions(assets=job_assets(self.job), jobs=[job_run(self.job)])

    def stale(self) -> dict[str, list[str]]:
        """The day's stale assets, and why."""
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        found = {}
        for name in (*self.job.tasks, "report"):
            key = AssetKey([self.job.name, name])
            if resolver.get_status(key, DAY).value != "FRESH":
                found[name] = [cause.reason for cause in resolver.get_stale_root_causes(key, DAY)]
        return found

    def observe(self) -> None:
        """Look at the documents, as Dagster's pages do before a run."""
        assert self._execute("documents").success

    def run(self, *names: str) -> dict[str, Any]:
        """Compute these; returns the run's report."""
        assert self._execute(*names).success
        folder = Path(self.job.output.uri) / f"_docmill/dt={DAY}"
        return dict(json.loads((folder / "report.json").read_text()))

    def _execute(self, *names: str) -> Any:
        return self.definitions.resolve_job_def(self.job.name).execute_in_process(
            instance=self.instance,
            partition_key=DAY,
            asset_selection=[AssetKey([self.job.name, name]) for name in names],
        )


def num_computed(report: dict[str, Any]) -> int:
    return int(report["computed_tokens"]["prompt"] + report["computed_tokens"]["output"])


EVERYTHING = ("documents", "translations", "topics", "report")


def test_another_prompt_makes_one_task_stale_and_only_that_is_computed_again(write_job: WriteJob) -> None:
    with DagsterInstance.ephemeral() as instance:
        dagster = Dagster(write_job(), instance)
        first = dagster.run(*EVERYTHING)
        assert num_computed(first) > 0
        assert dagster.stale() == {}

        again = dagster.run(*EVERYTHING)
        assert num_computed(again) == 0, "nothing has changed"

        labels = {"kind": "classify", "labels": ["billing", "delivery"]}
        french = {"kind": "translate", "target_language": "French"}
        changed = Dagster(write_job(tasks={"translations": french, "topics": labels}), instance)
        assert changed.stale() == {"translations": ["has a new code version"]}
        report = changed.run(*EVERYTHING)
        assert report["tasks"]["topics"]["reused_requests"] == report["tasks"]["topics"]["requests"]
        assert report["tasks"]["translations"]["reused_requests"] == 0
        assert 0 < num_computed(report) < num_computed(first)
        assert changed.stale() == {}


def test_late_files_make_the_day_stale_and_cost_what_is_new_in_them(
    write_job: WriteJob, tmp_path: Path
) -> None:
    path = write_job(source__generate=None, source__carry=None, source__start_date="2026-11-19")
    folder = tmp_path / f"jobs/documents/dt={DAY}"
    folder.mkdir(parents=True)
    texts = pl.DataFrame({"doc_id": [str(n) for n in range(20)], "text": [f"Text {n}." for n in range(20)]})
    texts.write_parquet(folder / "a.parquet")
    with DagsterInstance.ephemeral() as instance:
        dagster = Dagster(path, instance)
        first = dagster.run(*EVERYTHING)
        assert dagster.stale() == {}
        late = pl.DataFrame({"doc_id": ["late"], "text": ["Text, but late."]})
        late.write_parquet(folder / "b.parquet")
        dagster.observe()
        assert set(dagster.stale()) == {"translations", "topics"}
        second = dagster.run(*EVERYTHING)
        assert 0 < num_computed(second) < num_computed(first) / 5
        assert dagster.stale() == {}


def test_a_model_that_was_exchanged_in_its_place_makes_all_of_its_answers_stale(
    write_job: WriteJob, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(resolve_model(ModelConfig())).glob("*.*"):
        (model / file.name).write_bytes(file.read_bytes())
    path = write_job(model={"source": str(model)}, engine={"kind": "vllm"})
    before = code_versions(path)
    assert code_versions(path) == before
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert not set(before.values()) & set(code_versions(path).values())


def code_versions(path: Path) -> dict[str, str | None]:
    """Of each task's answers; Dagster calls stale what was made with another."""
    job = load_job(str(path))
    versions = answer_assets(job).code_versions_by_key
    return {name: versions[AssetKey([job.name, name])] for name in job.tasks}


def test_a_model_that_is_not_here_does_not_keep_dagster_from_loading(write_job: WriteJob) -> None:
    job = load_job(str(write_job(model={"source": "./nothing"})))
    assert job_assets(job)


def test_a_description_is_no_reason_to_answer_again(write_job: WriteJob) -> None:
    with DagsterInstance.ephemeral() as instance:
        Dagster(write_job(), instance).run(*EVERYTHING)
        assert Dagster(write_job(description="In other words"), instance).stale() == {}
