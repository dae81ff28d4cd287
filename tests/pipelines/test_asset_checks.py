"""The checks as Dagster sees them: there before the first run, evaluated by each, and what a failure keeps back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    AssetSelection,
    DagsterInstance,
    Definitions,
    asset,
    define_asset_job,
    materialize,
)

from docmill.ops.report import Report
from docmill.pipelines import assets
from docmill.pipelines.assets import answer_assets, documents_asset
from docmill.pipelines.job_files import load_job

WriteJob = Callable[..., Path]
DAY = "2026-11-20"


def run(path: Path, *others: Any, **options: Any) -> Any:
    job = load_job(str(path))
    with DagsterInstance.ephemeral() as instance:
        return materialize(
            [documents_asset(job), answer_assets(job), *others],
            selection=[answer_assets(job), *others],
            partition_key=DAY,
            instance=instance,
            raise_on_error=False,
            **options,
        )


def by_name(result: Any) -> dict[tuple[str, str], Any]:
    return {
        (found.asset_key.path[-1], found.check_name): found for found in result.get_asset_check_evaluations()
    }


def test_every_run_evaluates_all_checks(write_job: WriteJob) -> None:
    result = run(write_job(budget={"max_usd": 5.0}))
    assert result.success
    found = by_name(result)
    assert set(found) == {
        ("translations", "counts_balance"),
        ("translations", "failed_share"),
        ("translations", "truncated_share"),
        ("translations", "empty_share"),
        ("translations", "other_language_share"),
        ("topics", "counts_balance"),
        ("topics", "failed_share"),
        ("topics", "label_shift"),
        ("report", "within_budget"),
        ("report", "as_estimated"),
    }
    assert all(check.passed for check in found.values())
    assert found["topics", "counts_balance"].description.startswith("12 rows: 12 ok")


@pytest.mark.parametrize(
    ("changes", "check", "severity", "is_kept_back"),
    [
        ({"truncated_answers": 1}, "truncated_share", AssetCheckSeverity.WARN, False),
        ({"ok": 11, "failed": 1}, "failed_share", AssetCheckSeverity.ERROR, False),
        ({"rows": 13}, "counts_balance", AssetCheckSeverity.ERROR, True),
    ],
)
def test_lost_rows_keep_back_what_is_made_of_the_answers_and_nothing_else_does(
    changes: dict[str, int],
    check: str,
    severity: AssetCheckSeverity,
    is_kept_back: bool,
    write_job: WriteJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_job()
    job = load_job(str(path))
    real = assets.run_partition

    def run_partition(*arguments: Any, **options: Any) -> Report:
        report = real(*arguments, **options)
        figures = report.tasks["translations"]
        counted = {name: number for name, number in changes.items() if name != "truncated_answers"}
        counts = figures.counts.model_copy(update=counted)
        figures = figures.model_copy(update=changes | {"counts": counts})
        return report.model_copy(update={"tasks": report.tasks | {"translations": figures}})

    monkeypatch.setattr(assets, "run_partition", run_partition)

    @asset(deps=[AssetKey([job.name, "translations"])], partitions_def=answer_assets(job).partitions_def)
    def page() -> None:
        pass

    result = run(path, page)
    failing = {name: found.severity for (_, name), found in by_name(result).items() if not found.passed}
    assert failing == {check: severity}
    built = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert "translations" in built, "the answers themselves are there"
    assert ("page" in built) != is_kept_back
    assert result.success != is_kept_back


def test_a_run_of_one_task_evaluates_its_own_checks(write_job: WriteJob) -> None:
    job = load_job(str(write_job()))
    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            [documents_asset(job), answer_assets(job)],
            selection=[AssetKey([job.name, "topics"])],
            partition_key=DAY,
            instance=instance,
        )
    assert set(by_name(result)) == {
        ("topics", "counts_balance"),
        ("topics", "failed_share"),
        ("topics", "label_shift"),
    }


def test_a_check_by_itself_fails_at_once_and_says_what_to_do(write_job: WriteJob) -> None:
    """Which the pages offer; with the retries of a step it would take minutes to fail."""
    job = load_job(str(write_job()))
    alone = AssetSelection.checks(AssetCheckKey(AssetKey([job.name, "topics"]), "counts_balance"))
    definitions = Definitions(
        assets=[documents_asset(job), answer_assets(job)], jobs=[define_asset_job("alone", selection=alone)]
    )
    with DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("alone").execute_in_process(
            instance=instance, raise_on_error=False
        )
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "materialise the day" in str(failure.event_specific_data)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
