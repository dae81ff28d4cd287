"""A job in Dagster: what is computed, what is shown, and what turns red."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dagster import AssetKey, DagsterInstance, Definitions, ExecuteInProcessResult
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from docmill.data.errors import StorageUnreachable
from docmill.pipelines import asset_metadata
from docmill.pipelines.assets import job_assets, job_run
from docmill.pipelines.job_files import load_job

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"
DOCUMENTS = 12

WriteJob = Callable[..., Path]


class Workspace:
    """Dagster with one job, in this process."""

    def __init__(self, job_file: Path, instance: DagsterInstance):
        self.job, self.instance = load_job(str(job_file)), instance
        self.definitions = Definitions(assets=job_assets(self.job), jobs=[job_run(self.job)])

    def run(self, *names: str, partition: str | None = DAY) -> ExecuteInProcessResult:
        """Compute the named assets, or everything; a failure is in the result."""
        return self.definitions.resolve_job_def(self.job.name).execute_in_process(
            instance=self.instance,
            partition_key=partition,
            asset_selection=[AssetKey([self.job.name, name]) for name in names] or None,
            raise_on_error=False,
        )

    def metadata(self, result: ExecuteInProcessResult, name: str) -> dict[str, Any]:
        """What the run's materialisation of an asset shows."""
        [event] = [
            event
            for event in result.get_asset_materialization_events()
            if event.asset_key == AssetKey([self.job.name, name])
        ]
        return {key: value.value for key, value in event.materialization.metadata.items()}

    def status(self, name: str, day: str = DAY) -> AssetPartitionStatus | None:
        """The colour of a day."""
        key = AssetKey([self.job.name, name])
        partitions = self.definitions.resolve_asset_graph().get(key).partitions_def
        assert partitions is not None
        return (self.instance.get_status_by_partition(key, [day], partitions) or {})[day]

    def answers(self, task: str) -> pl.DataFrame:
        """All answers of a task, as any reader finds them."""
        return pl.read_parquet(f"{self.job.output.uri}/{task}/**/*.parquet", hive_partitioning=True)


@pytest.fixture
def workspace(write_job: WriteJob) -> Iterator[Workspace]:
    with DagsterInstance.ephemeral() as instance:
        yield Workspace(write_job(), instance)


def materialized(result: ExecuteInProcessResult) -> set[str]:
    return {
        event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
    }


def test_a_job_is_documents_then_tasks_then_report(workspace: Workspace) -> None:
    graph = workspace.definitions.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.path[-1] for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        "tickets/documents": set(),
        "tickets/translations": {"documents"},
        "tickets/topics": {"documents"},
        "tickets/report": {"translations", "topics"},
    }
    assert {graph.get(key).group_name for key in graph.get_all_asset_keys()} == {"tickets"}
    assert graph.get(AssetKey(["tickets", "topics"])).kinds == {"vllm", "parquet"}
    assert graph.observable_asset_keys == {AssetKey(["tickets", "documents"])}


def test_all_of_it_belongs_to_the_jobs_owners(write_job: WriteJob) -> None:
    owners = ["team:search", "someone@example.com"]
    assets = job_assets(load_job(str(write_job(owners=owners))))
    owned = {spec.key.path[-1]: spec.owners for each in assets for spec in each.specs}
    assert owned == dict.fromkeys(["documents", "translations", "topics", "report"], owners)


def test_everything_is_answered_in_one_step(workspace: Workspace) -> None:
    result = workspace.run()
    assert result.success
    assert materialized(result) == {"translations", "topics", "report"}
    assert [event.step_key for event in result.get_step_success_events()] == [
        "tickets__documents",
        "tickets__answers",
    ]
    assert workspace.answers("translations").height == workspace.answers("topics").height == DOCUMENTS
    assert workspace.status("topics") is AssetPartitionStatus.MATERIALIZED


def test_one_task_alone_leaves_the_others_as_they_were(workspace: Workspace) -> None:
    result = workspace.run("topics")
    assert result.success
    assert materialized(result) == {"topics"}
    assert not (Path(workspace.job.output.uri) / "translations").exists()


def test_the_report_alone_shows_the_last_run_again(workspace: Workspace) -> None:
    workspace.run("topics")
    result = workspace.run("report")
    assert materialized(result) == {"report"}
    assert workspace.metadata(result, "report")["documents"] == DOCUMENTS


def test_what_cannot_be_shown_of_a_finished_day_fails_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry would run the finished day again, and pay for it."""

    def unreachable(*_: object, **__: object) -> None:
        raise StorageUnreachable("s3://x", "no answer")

    monkeypatch.setattr(asset_metadata, "read_answer_schema", unreachable)
    result = workspace.run("topics")
    assert result.success
    assert "dagster/column_schema" not in workspace.metadata(result, "topics")


def test_the_report_of_a_day_that_never_ran_fails_with_its_place(workspace: Workspace) -> None:
    result = workspace.run("report")
    assert not result.success
    assert "report.json" in failure_of(result)


def test_running_again_replaces_and_never_appends(workspace: Workspace) -> None:
    workspace.run()
    files = sorted(Path(workspace.job.output.uri).rglob("*.parquet"))
    again = workspace.run()
    assert again.success
    assert sorted(Path(workspace.job.output.uri).rglob("*.parquet")) == files
    assert workspace.answers("translations").height == DOCUMENTS
    workspace.run(partition=OTHER_DAY)
    assert workspace.answers("translations").group_by("dt").len()["len"].to_list() == [DOCUMENTS, DOCUMENTS]


def test_an_asset_shows_counts_tokens_places_schema_and_a_preview(workspace: Workspace) -> None:
    result = workspace.run()
    shown = workspace.metadata(result, "topics")
    assert (shown["dagster/partition_row_count"], shown["ok"], shown["failed"], shown["skipped"]) == (
        DOCUMENTS,
        DOCUMENTS,
        0,
        0,
    )
    assert shown["requests"] == DOCUMENTS
    assert shown["prompt_tokens"] > shown["output_tokens"] > 0
    assert shown["usd"] > 0
    assert Path(shown["output"]) == Path(workspace.job.output.uri) / "topics" / f"dt={DAY}"
    assert json.loads(Path(shown["report"]).read_text())["documents"] == DOCUMENTS
    columns = {column.name: column for column in shown["dagster/column_schema"].columns}
    assert list(columns) == workspace.answers("topics").drop("dt").columns
    assert columns["label"].description == "The most probable label."
    assert columns["language"].description == "Copied from the document."
    lineage = shown["dagster/column_lineage"].deps_by_column
    documents = AssetKey(["tickets", "documents"])
    assert {name: [(dep.asset_key, dep.column_name) for dep in deps] for name, deps in lineage.items()} == {
        "doc_id": [(documents, "doc_id")],
        "language": [(documents, "language")],
        **{name: [(documents, "text")] for name in ("label", "score", "label_scores")},
    }
    preview = shown["preview"].splitlines()
    assert preview[0] == "| doc_id | text | topics |"
    assert len(preview) == 2 + 5
    report = workspace.metadata(result, "report")
    assert report["documents"] == DOCUMENTS
    assert report["tokens_per_second"] > 0
    paid = shown["engine_seconds"] + workspace.metadata(result, "translations")["engine_seconds"]
    assert report["paid_engine_seconds"] == pytest.approx(paid, abs=0.02)
    assert (report["failed"], report["failed_share"], shown["failed_share"]) == (0, 0, 0)
    assert {"model_load_seconds", "assembling_seconds", "idle_draining_seconds"} <= set(report)
    assert shown["usd_per_1000_documents"] == pytest.approx(shown["usd"] / DOCUMENTS * 1000, abs=1e-3)
    assert report["usd"] == pytest.approx(
        shown["usd"] + workspace.metadata(result, "translations")["usd"], abs=2e-6
    )


def test_rows_without_an_answer_are_counted_by_reason_and_fail_nothing(write_job: WriteJob) -> None:
    with DagsterInstance.ephemeral() as instance:
        workspace = Workspace(write_job(source__generate__hostile=True), instance)
        result = workspace.run(partition=OTHER_DAY)
        assert result.success
        shown = workspace.metadata(result, "topics")
        assert shown["failed"] > 0
        assert shown["skipped"] > 0
        assert sum(shown["errors"].values()) == shown["failed"] + shown["skipped"]


def test_a_preview_is_plain_text(write_job: WriteJob) -> None:
    """A document must not put a picture, a link or a tag onto Dagster's pages."""
    path = write_job(source={"uri": "own", "partition_key": None})
    folder = path.parent / "own"
    folder.mkdir()
    texts = [
        "![x](http://evil.example/p.png) | `a` <img src=x onerror=alert(1)>",
        "\x1b[31mred\u202e",
        "*" * 500,
    ]
    pl.DataFrame({"doc_id": ["1", "2", "3"], "text": texts}).write_parquet(folder / "a.parquet")
    with DagsterInstance.ephemeral() as instance:
        workspace = Workspace(path, instance)
        result = workspace.run(partition=None)
        assert result.success
        rows = workspace.metadata(result, "topics")["preview"].splitlines()[2:]
    assert len(rows) == 3
    assert r"\!\[x\]\(http\:\/\/evil" in rows[0].replace("/", r"\/")
    assert all(row.replace(r"\|", "").count("|") == 4 for row in rows)
    assert "<img" not in rows[0]
    assert "\x1b" not in rows[1]
    assert "\u202e" not in rows[1]
    assert len(rows[2]) < 250


def test_a_shard_that_cannot_be_used_turns_the_day_red_after_the_others_are_written(
    workspace: Workspace,
) -> None:
    assert workspace.run().success
    shard = Path(workspace.job.source.uri) / f"dt={DAY}" / "part-0001.parquet"
    good = shard.read_bytes()
    shard.write_bytes(b"no parquet")
    produced = workspace.answers("topics")["produced_at"].max()
    result = workspace.run()
    assert not result.success
    assert "1 of 2 shards could not be used: part-0001.parquet" in failure_of(result)
    assert workspace.status("topics") is AssetPartitionStatus.FAILED
    assert workspace.answers("topics")["produced_at"].max() > produced
    shown = [
        event
        for event in result.get_asset_observation_events()
        if event.asset_key == AssetKey(["tickets", "topics"])
    ]
    assert shown[0].asset_observation_data.asset_observation.metadata["ok"].value == DOCUMENTS // 2
    shard.write_bytes(good)
    assert workspace.run().success
    assert workspace.status("topics") is AssetPartitionStatus.MATERIALIZED


def test_a_day_without_documents_fails_and_names_the_days_there_are(write_job: WriteJob) -> None:
    path = write_job(source__generate=None, source__start_date="2026-11-01")
    folder = path.parent / "documents" / f"dt={DAY}"
    folder.mkdir(parents=True)
    pl.DataFrame({"doc_id": ["1"], "text": ["a"], "language": ["de"]}).write_parquet(folder / "a.parquet")
    with DagsterInstance.ephemeral() as instance:
        result = Workspace(path, instance).run("topics", partition=OTHER_DAY)
    assert not result.success
    assert f"The source has {DAY}" in failure_of(result)


def test_a_model_that_is_not_there_fails_once_with_the_remedy(write_job: WriteJob) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = Workspace(write_job(model={"source": "./nothing"}), instance).run("topics")
    assert not result.success
    assert "no such folder" in failure_of(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_observing_gives_each_day_a_version_that_changes_with_its_files(workspace: Workspace) -> None:
    def versions(result: ExecuteInProcessResult) -> dict[str | None, str]:
        return {
            event.partition: event.asset_observation_data.asset_observation.tags["dagster/data_version"]
            for event in result.get_asset_observation_events()
        }

    first = versions(workspace.run("documents", partition=None))
    assert set(first) == {OTHER_DAY, DAY}
    assert versions(workspace.run("documents", partition=DAY)) == {DAY: first[DAY]}
    shard = Path(workspace.job.source.uri) / f"dt={DAY}" / "part-0000.parquet"
    pl.read_parquet(shard).head(1).write_parquet(shard)
    second = versions(workspace.run("documents", partition=None))
    assert second[OTHER_DAY] == first[OTHER_DAY]
    assert second[DAY] != first[DAY]


def test_a_job_in_an_object_store_is_shown_with_its_addresses(
    moto_server: Any, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    root = moto_server.uri("pipelines-assets")
    with DagsterInstance.ephemeral() as instance:
        workspace = Workspace(write_job(source__uri=f"{root}/in", output__uri=f"{root}/out"), instance)
        result = workspace.run()
        assert result.success
        shown = workspace.metadata(result, "topics")
    assert shown["output"] == f"{root}/out/topics/dt={DAY}"
    assert shown["report"] == f"{root}/out/_docmill/dt={DAY}/report.json"
    assert len(shown["preview"].splitlines()) == 2 + 5


def test_settings_change_the_code_version_of_their_task_alone(write_job: WriteJob) -> None:
    def versions(path: Path) -> dict[str, str | None]:
        answers = job_assets(load_job(str(path)))[1]
        return {key.path[-1]: version for key, version in answers.code_versions_by_key.items()}

    before = versions(write_job())
    after = versions(write_job(tasks__topics__labels=["billing", "delivery", "other"]))
    assert before["translations"] == after["translations"]
    assert before["topics"] != after["topics"]


def test_days_are_those_of_the_source(write_job: WriteJob) -> None:
    documents = job_assets(load_job(str(write_job())))[0]
    assert documents.partitions_def is not None
    assert documents.partitions_def.get_partition_keys() == [OTHER_DAY, DAY]


def failure_of(result: ExecuteInProcessResult) -> str:
    [event] = [event for event in result.get_step_failure_events() if event.step_key == "tickets__answers"]
    return str(event.step_failure_data.user_failure_data.description)
