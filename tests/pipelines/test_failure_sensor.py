"""Real runs that fail, what Dagster's sensor then posts to the job's hook, and what it never says."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    asset,
    build_sensor_context,
    define_asset_job,
    materialize,
)
from dagster._core.storage.tags import WILL_RETRY_TAG
from servers.hook import SECRET, Hook

from docmill.ops.errors import JobError
from docmill.pipelines import failure_sensor as module
from docmill.pipelines.assets import answer_assets, documents_asset
from docmill.pipelines.document_job import DocumentJob
from docmill.pipelines.failure_sensor import MOST_TOLD, failure_sensor
from docmill.pipelines.hooks import HookFailed
from docmill.pipelines.job_files import load_job

WriteJob = Callable[..., Path]
DAY, EMPTY_DAY = "2026-11-20", "2026-11-18"
ON_FAILURE = {"url": "${TICKETS_HOOK}", "dagster_url": "https://dagster.example.com/"}


@asset(deps=[AssetKey(["tickets", "topics"])])
def somebody_elses() -> None:
    raise RuntimeError("their words")


class Workspace:
    """Dagster with one job, whose source has no documents of `EMPTY_DAY`; its sensor, and the cursor between looks."""

    def __init__(self, path: Path, instance: DagsterInstance):
        self.job, self.instance = load_job(str(path)), instance
        other = define_asset_job("other", selection=[AssetKey("somebody_elses")])
        own = DocumentJob(self.job).definitions()
        self.definitions = Definitions.merge(own, Definitions(assets=[somebody_elses], jobs=[other]))
        sensor = failure_sensor(self.job)
        assert sensor is not None
        self.sensor = sensor
        self.cursor: str | None = None
        self.look()

    def run(self, partition: str | None = EMPTY_DAY, *, job: str = "tickets") -> ExecuteInProcessResult:
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=partition, raise_on_error=False
        )

    def look(self) -> str:
        """What the sensor says of its look. As with Dagster's daemon, one that fails leaves the cursor where it is."""
        context = build_sensor_context(self.instance, cursor=self.cursor)
        said = self.sensor(context)
        self.cursor = context.cursor
        return str(said.skip_message)


@pytest.fixture
def workspace(write_job: WriteJob, hook: Hook) -> Iterator[Workspace]:
    path = write_job(
        on_failure=ON_FAILURE, source__generate=None, source__carry=None, source__start_date="2026-11-18"
    )
    (path.parent / "documents" / f"dt={DAY}").mkdir(parents=True)
    with DagsterInstance.ephemeral() as instance:
        yield Workspace(path, instance)


def test_a_failed_run_is_told_once_with_what_went_wrong(workspace: Workspace, hook: Hook) -> None:
    run = workspace.run()
    assert not run.success
    assert workspace.look() == "told of 1 failed runs"
    [message] = hook.messages
    assert message.pop("failed_at").startswith("20")
    error = message["error"]
    assert error.startswith(f"no *.parquet files below {workspace.job.source.uri}/dt={EMPTY_DAY}")
    assert message == {
        "text": f"docmill: tickets {EMPTY_DAY} has failed: {error}",
        "job": "tickets",
        "partition": EMPTY_DAY,
        "run_id": run.run_id,
        "run_url": f"https://dagster.example.com/runs/{run.run_id}",
        "error": error,
    }
    assert workspace.look() == "told of 0 failed runs"
    assert len(hook.messages) == 1


def test_a_hook_that_is_away_is_told_again_until_it_answers(
    workspace: Workspace, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = workspace.run(), workspace.run()
    for status in (500, 302):
        hook.status, hook.redirects_to = status, f"http://127.0.0.1:1/{SECRET}"
        with pytest.raises(HookFailed) as caught:
            workspace.look()
        assert str(caught.value) == f"the hook (on_failure.url) answered {status}"
        assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text
    hook.status = 200
    assert workspace.look() == "told of 2 failed runs"
    assert [message["run_id"] for message in hook.messages] == [first.run_id, second.run_id]


def test_a_hook_that_goes_away_between_two_hears_the_second_later(
    workspace: Workspace, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = workspace.run(), workspace.run()
    real = module.post

    def post_then_close(*arguments: Any) -> None:
        real(*arguments)
        hook.status = 503

    monkeypatch.setattr(module, "post", post_then_close)
    assert workspace.look() == "told of 1 failed runs; then the hook (on_failure.url) answered 503"
    hook.status = 200
    workspace.look()
    assert [message["run_id"] for message in hook.messages] == [first.run_id, second.run_id]


def test_after_a_day_a_hook_that_never_answers_is_given_up(
    workspace: Workspace, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.run()
    hook.status = 404
    monkeypatch.setattr(module, "SECONDS_TO_TRY", 0)
    assert workspace.look() == "told of 0 failed runs"
    hook.status = 200
    assert workspace.look() == "told of 0 failed runs"
    assert hook.messages == []


def test_an_address_where_nobody_listens_is_not_said(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKETS_HOOK", f"http://127.0.0.1:1/services/{SECRET}")
    job = load_job(str(write_job(on_failure=ON_FAILURE)))
    with pytest.raises(HookFailed) as caught:
        module.post(job.on_failure.url, {}) if job.on_failure else None
    assert str(caught.value) == "the hook (on_failure.url) cannot be reached: Connection refused"
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(job) + job.model_dump_json()


def test_many_failures_are_told_over_several_looks(workspace: Workspace, hook: Hook) -> None:
    runs = [workspace.run().run_id for _ in range(MOST_TOLD + 1)]
    assert workspace.look() == f"told of {MOST_TOLD} failed runs"
    assert workspace.look() == "told of 1 failed runs"
    assert [message["run_id"] for message in hook.messages] == runs


def test_a_run_whose_process_died_is_told_unless_it_starts_again(workspace: Workspace, hook: Hook) -> None:
    tags = {"dagster/partition": DAY}
    again = workspace.instance.create_run_for_job(
        workspace.definitions.resolve_job_def("tickets"), tags=tags | {WILL_RETRY_TAG: "true"}
    )
    last = workspace.instance.create_run_for_job(workspace.definitions.resolve_job_def("tickets"), tags=tags)
    for run in (again, last):
        workspace.instance.report_run_failed(run, "Run worker died\nwith all this")
    workspace.look()
    [message] = hook.messages
    assert (message["run_id"], message["error"]) == (last.run_id, "Run worker died")


def test_assets_that_were_materialised_without_the_job_are_told_too(workspace: Workspace, hook: Hook) -> None:
    """As from the pages, or by a backfill."""
    result = materialize(
        [documents_asset(workspace.job), answer_assets(workspace.job)],
        selection=[AssetKey(["tickets", "topics"])],
        partition_key=EMPTY_DAY,
        instance=workspace.instance,
        raise_on_error=False,
    )
    topics = frozenset({AssetKey(["tickets", "topics"])})
    died = workspace.instance.create_run_for_job(
        workspace.definitions.get_repository_def().get_implicit_global_asset_job_def(),
        asset_selection=topics,
        tags={"dagster/partition": DAY},
    )
    workspace.instance.report_run_failed(died)
    workspace.look()
    told = [(message["run_id"], message["partition"]) for message in hook.messages]
    assert told == [(result.run_id, EMPTY_DAY), (died.run_id, DAY)]
    assert hook.messages[1]["error"]


def test_what_is_not_of_the_job_is_not_told(workspace: Workspace, hook: Hook) -> None:
    assert not workspace.run(None, job="other").success
    assert workspace.look() == "told of 0 failed runs"
    assert hook.messages == []


def test_what_no_message_was_written_for_is_told_by_its_kind(
    workspace: Workspace, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("Sehr geehrte Damen und Herren")

    monkeypatch.setattr("docmill.pipelines.assets.partition_of", broken)
    workspace.run()
    workspace.look()
    assert "KeyError" in hook.messages[0]["error"]
    assert "Damen" not in json.dumps(hook.messages)


@pytest.mark.parametrize(
    ("url", "sensors"), [("${TICKETS_HOOK}", ["tickets__failures"]), ("${NOT_THERE:-}", [])]
)
def test_a_job_has_the_sensor_where_the_environment_has_the_address(
    url: str, sensors: list[str], write_job: WriteJob, hook: Hook
) -> None:
    definitions = DocumentJob(load_job(str(write_job(on_failure={"url": url})))).definitions()
    assert [sensor.name for sensor in definitions.sensors or []] == sensors


@pytest.mark.parametrize(
    ("on_failure", "words"),
    [
        ({"url": f"https://hooks.example.com/{SECRET}"}, "on_failure.url: whoever knows it may post there"),
        ({"url": "${TICKETS_HOOK}x:y"}, "on_failure.url: is no address of a hook"),
        ({"url": "${SPOOL}"}, "on_failure.url: is no address of a hook; expected https://... or http://..."),
        ({"url": "${NOT_THERE}"}, "on_failure.url: the environment variable NOT_THERE is not set"),
        ({"dagster_url": "dagster"}, "on_failure.dagster_url: 'dagster' is no address"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_and_not_repeated(
    on_failure: dict[str, str], words: str, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKETS_HOOK", f"http://hooks.example.com:{SECRET}")
    monkeypatch.setenv("SPOOL", f"/var/{SECRET}")
    with pytest.raises(JobError) as caught:
        load_job(str(write_job(on_failure=on_failure)))
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
