"""What is looked at after a run: figures of its report, and the answers that lie there."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from docmill.data.demo.batches import demo_batches
from docmill.data.layout import Layout
from docmill.data.manifest import AnswerFile, Manifest, TaskManifest
from docmill.data.records import Partition
from docmill.engine.fake_engine import FakeEngine
from docmill.ops.checks import check_report, check_task, report_check_names, task_check_names
from docmill.ops.expected import Estimate, Range
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Report
from docmill.ops.sources import ensure_source

DAY = date(2026, 11, 20)


def make_job(folder: Path, **settings: Any) -> Job:
    return Job.model_validate(
        {
            "name": "checked",
            "source": {
                "uri": str(folder / "documents"),
                "generate": {"kind": "demo", "days": [DAY], "documents_per_day": 20},
            },
            "output": {"uri": str(folder / "answers")},
            "engine": {"kind": "fake"},
            "tasks": {
                "english": {"kind": "translate"},
                "topics": {"kind": "classify", "labels": ["billing", "delivery"]},
            },
            "prices": {"usd_per_hour": {"cpu": 1.0}},
            **settings,
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Partition, Report]:
    job = make_job(tmp_path_factory.mktemp("checked"))
    ensure_source(job)
    partition = job.partition(str(DAY))
    return job, partition, run_partition(job, partition, engine=FakeEngine())


def of_task(
    finished: tuple[Job, Partition, Report], name: str, limits: dict[str, float], **counted: Any
) -> Any:
    """The check of the translations, with some of their figures changed."""
    job, partition, report = finished
    job = job.model_copy(update={"checks": job.checks.model_copy(update=limits)})
    figures = report.tasks["english"]
    counts = figures.counts.model_copy(
        update={key: value for key, value in counted.items() if key in ("rows", "ok", "failed", "skipped")}
    )
    figures = figures.model_copy(update={"counts": counts, **{k: v for k, v in counted.items() if "_" in k}})
    report = report.model_copy(update={"tasks": report.tasks | {"english": figures}})
    return check_task(name, job, partition, report, "english")


def test_each_kind_of_task_has_its_checks(finished: tuple[Job, Partition, Report]) -> None:
    job = finished[0]
    assert task_check_names(job, "english") == [
        "counts_balance",
        "failed_share",
        "truncated_share",
        "empty_share",
        "other_language_share",
    ]
    assert task_check_names(job, "topics") == ["counts_balance", "failed_share", "label_shift"]
    assert report_check_names(job) == ["as_estimated"]
    limited = job.model_copy(update={"budget": job.budget.model_copy(update={"max_usd": 1.0})})
    assert report_check_names(limited) == ["within_budget", "as_estimated"]


def test_a_run_without_trouble_passes_all_of_them(finished: tuple[Job, Partition, Report]) -> None:
    job, partition, report = finished
    found = {
        (task, name): check_task(name, job, partition, report, task)
        for task in job.tasks
        for name in task_check_names(job, task)
    }
    assert all(check.passed for check in found.values()), found
    assert found["english", "empty_share"].words == "0 of 20 answers are empty, 0.0% (allowed 1.0%)"


@pytest.mark.parametrize(
    ("name", "counted", "limits", "passed", "words"),
    [
        ("counts_balance", {"rows": 21}, {}, False, "21 rows: 20 ok, 0 failed, 0 skipped"),
        # Skipped rows were not asked about.
        (
            "failed_share",
            {"ok": 18, "failed": 1, "skipped": 1},
            {},
            False,
            "1 of 19 rows have no answer, 5.3% (allowed 5.0%)",
        ),
        ("failed_share", {"ok": 18, "failed": 1, "skipped": 1}, {"max_failed_share": 0.06}, True, "1 of 19"),
        ("failed_share", {"ok": 0, "failed": 0, "skipped": 20}, {}, True, "0 of 0 rows"),
        ("truncated_share", {"truncated_answers": 2}, {}, False, "2 of 20 answers are cut off, 10.0%"),
        ("truncated_share", {"truncated_answers": 1}, {}, True, "1 of 20 answers are cut off, 5.0%"),
    ],
)
def test_shares_of_rows_are_held_against_the_jobs_limits(
    name: str,
    counted: dict[str, int],
    limits: dict[str, float],
    passed: bool,
    words: str,
    finished: tuple[Job, Partition, Report],
) -> None:
    check = of_task(finished, name, limits, **counted)
    assert check.passed == passed
    assert check.words.startswith(words)


def write_answers(job: Job, day: date | str, task: str, frame: pl.DataFrame) -> None:
    """As a finished run leaves them."""
    layout = Layout(job.output.uri, job.partition(str(day)))
    target = Path(layout.answers(task, "a.parquet"))
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(target)
    manifest = Manifest(
        job=job.name,
        partition=str(day),
        tasks={
            task: TaskManifest(
                settings="",
                model_fingerprint="",
                finished_at=datetime.now(UTC),
                files=[AnswerFile(name="a.parquet", rows=frame.height, shard_version="1")],
            )
        },
    )
    Path(layout.manifest).parent.mkdir(parents=True, exist_ok=True)
    Path(layout.manifest).write_text(manifest.model_dump_json())


def test_white_space_is_no_answer(tmp_path: Path, finished: tuple[Job, Partition, Report]) -> None:
    job = make_job(tmp_path)
    status = ["ok"] * 4 + ["failed", "skipped"]
    translations = ["Hello.", " \n", "", "Thanks.", None, None]
    write_answers(job, DAY, "english", pl.DataFrame({"status": status, "translation": translations}))
    check = check_task("empty_share", job, job.partition(str(DAY)), finished[2], "english")
    assert not check.passed
    assert check.words == "2 of 4 answers are empty, 50.0% (allowed 1.0%)"


def demo_texts(column: str, number: int = 60) -> list[str]:
    """Of customers' messages, which are German and Chinese; their translations are English."""
    [batch] = demo_batches(seed=5, num_documents=number)
    return [str(text) for text in batch.column(column).to_pylist()]


@pytest.mark.parametrize(
    ("num_untranslated", "limits", "passed", "words"),
    [
        (0, {}, True, "0 of 60 answers that were looked at are not in English, 0.0% (allowed 5.0%)"),
        (3, {}, True, "3 of 60 answers that were looked at are not in English, 5.0% (allowed 5.0%); "),
        (4, {}, False, "4 of 60 answers that were looked at are not in English, 6.7% (allowed 5.0%); "),
        (4, {"max_other_language_share": 0.1}, True, "4 of 60"),
    ],
)
def test_translations_are_held_against_the_target_language(
    num_untranslated: int,
    limits: dict[str, float],
    passed: bool,
    words: str,
    tmp_path: Path,
    finished: tuple[Job, Partition, Report],
) -> None:
    job = make_job(tmp_path, checks=limits)
    texts = demo_texts("text")[:num_untranslated] + demo_texts("reference_translation")[num_untranslated:]
    rows = [("ok", text) for text in texts] + [("ok", "Ja."), ("failed", None), ("skipped", None)]
    write_answers(job, DAY, "english", pl.DataFrame(rows, ["status", "translation"], orient="row"))
    check = check_task("other_language_share", job, job.partition(str(DAY)), finished[2], "english")
    assert check.passed == passed
    assert check.words.startswith(words)


def test_of_many_translations_some_are_looked_at_evenly(
    tmp_path: Path, finished: tuple[Job, Partition, Report]
) -> None:
    job = make_job(tmp_path)
    english, others = demo_texts("reference_translation", 500), demo_texts("text", 500)
    frame = pl.DataFrame({"translation": english * 6 + others * 2}).with_columns(status=pl.lit("ok"))
    write_answers(job, DAY, "english", frame)
    check = check_task("other_language_share", job, job.partition(str(DAY)), finished[2], "english")
    assert check.words.startswith("250 of 1,000 answers that were looked at are not in English, 25.0%")


@pytest.mark.parametrize(
    ("task", "answers", "words"),
    [
        (
            {"target_language": "Klingon"},
            60,
            "'Klingon' is not the name of one language that py3langid knows",
        ),
        ({"instruction": "Übersetze ins Deutsche."}, 60, "neither the instruction nor the job says"),
        ({"instruction": "Übersetze.", "target_language": "Chinese"}, 60, "60 of 60 answers"),
        ({"target_language": "German"}, 19, "fewer than 20 answers say enough to tell their language"),
    ],
)
def test_what_nobody_can_tell_is_passed_and_said(
    task: dict[str, str],
    answers: int,
    words: str,
    tmp_path: Path,
    finished: tuple[Job, Partition, Report],
) -> None:
    job = make_job(tmp_path, tasks={"english": {"kind": "translate", **task}})
    texts = demo_texts("reference_translation", answers)
    frame = pl.DataFrame({"translation": texts}).with_columns(status=pl.lit("ok"))
    write_answers(job, DAY, "english", frame)
    check = check_task("other_language_share", job, job.partition(str(DAY)), finished[2], "english")
    assert check.words.startswith(words)
    assert check.passed == ("60 of 60" not in words)


def labels(billing: int, delivery: int) -> pl.DataFrame:
    names = ["billing"] * billing + ["delivery"] * delivery
    rows = pl.DataFrame({"status": ["ok"] * len(names), "label": names})
    return pl.concat([rows, pl.DataFrame({"status": ["failed"] * 50, "label": [None] * 50}, rows.schema)])


@pytest.mark.parametrize(
    ("before", "now", "passed", "words"),
    [
        ((50, 50), (80, 40), True, "16.7% of the rows have another label"),
        ((50, 50), (90, 30), True, "25.0% of the rows have another label"),
        ((50, 50), (100, 20), False, "33.3% of the rows have another label"),
        ((0, 100), (100, 0), False, "100.0% of the rows have another label"),  # a label that nobody had
        ((10, 10), (100, 0), True, "fewer than 100 labels"),
        (None, (100, 0), True, "fewer than 100 labels"),
    ],
)
def test_labels_are_compared_with_those_of_the_week_before(
    before: tuple[int, int] | None,
    now: tuple[int, int],
    passed: bool,
    words: str,
    tmp_path: Path,
    finished: tuple[Job, Partition, Report],
) -> None:
    job = make_job(tmp_path)
    if before is not None:
        write_answers(job, DAY - timedelta(days=3), "topics", labels(*before))
    write_answers(job, DAY - timedelta(days=8), "topics", labels(0, 1000))  # too long ago to count
    write_answers(job, DAY, "topics", labels(*now))
    check = check_task("label_shift", job, job.partition(str(DAY)), finished[2], "topics")
    assert check.passed == passed
    assert check.words.startswith(words)


def test_labels_of_an_hour_are_compared_with_those_of_the_week_before(
    tmp_path: Path, finished: tuple[Job, Partition, Report]
) -> None:
    job = make_job(tmp_path, source={"uri": "x", "partition_every": "hour"})
    for hour in ("2026-11-20-04", "2026-11-13-05"):  # the hour before, and the first of the week before
        write_answers(job, hour, "topics", labels(0, 60))
    for hour in ("2026-11-13-04", "2026-11-20-06"):  # longer ago, and later
        write_answers(job, hour, "topics", labels(1000, 0))
    write_answers(job, "2026-11-20-05", "topics", labels(150, 50))
    check = check_task("label_shift", job, job.partition("2026-11-20-05"), finished[2], "topics")
    assert check.words.startswith("75.0% of the rows have another label")
    write_answers(job, "2026-11-20-05", "topics", labels(9, 9))
    check = check_task("label_shift", job, job.partition("2026-11-20-05"), finished[2], "topics")
    assert check.words == "fewer than 100 labels in this hour or the 7 days before it"


def estimate(report: Report, usd: float) -> Estimate:
    around = Range(low=usd, expected=usd, high=usd)
    return Estimate(
        job=report.job, partition=report.partition, made_at=report.started_at, plan=report.plan,
        documents=1, counted_documents=1, shards=1, failed_shards=0, not_asked_documents=0, duplicate_documents=0,
        reused_documents=0, tasks={}, device="cpu", measured_at=None, engines=1, engine_seconds=None,
        wall_seconds=None, usd_per_hour=1.0, usd=around,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("billed", "expected", "passed", "words"),
    [
        (1.5, 1.0, True, "1.5000 USD, 50% more than expected"),
        (1.6, 1.0, False, "1.6000 USD, 60% more than expected"),
        (0.4, 1.0, False, "0.4000 USD, 60% less than expected"),
        (1.0, None, True, "`docmill plan` was not asked before"),
        (None, 1.0, True, "`docmill plan` was not asked before, or there are no prices"),
    ],
)
def test_the_bill_is_compared_with_what_was_expected(
    billed: float | None,
    expected: float | None,
    passed: bool,
    words: str,
    finished: tuple[Job, Partition, Report],
) -> None:
    job, _, report = finished
    cost = report.cost.model_copy(update={"usd": billed})
    foretold = None if expected is None else estimate(report, expected)
    check = check_report("as_estimated", job, report.model_copy(update={"cost": cost, "estimate": foretold}))
    assert check.passed == passed
    assert check.words.startswith(words)


@pytest.mark.parametrize(("usd", "passed"), [(0.5, True), (0.51, False), (None, True)])
def test_the_bill_is_held_against_the_budget(
    usd: float | None, passed: bool, finished: tuple[Job, Partition, Report]
) -> None:
    job, _, report = finished
    job = job.model_copy(update={"budget": job.budget.model_copy(update={"max_usd": 0.5})})
    cost = report.cost.model_copy(update={"usd": usd})
    assert check_report("within_budget", job, report.model_copy(update={"cost": cost})).passed == passed
