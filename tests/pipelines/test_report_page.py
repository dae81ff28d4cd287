"""The report's page: made by every way to run a job, one file without scripts, readable wide and narrow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from dagster import AssetKey, DagsterInstance, Definitions

from docmill.data.layout import Layout
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Request, RequestError
from docmill.ops import replay as replays
from docmill.ops.expected import Estimate, Range, TaskEstimate
from docmill.ops.history import read_report
from docmill.ops.partition_job import run_partition
from docmill.ops.report import Cost, FailedShard, Idle, IncidentReport, Report, SlowDocument, TimelinePoint
from docmill.ops.token_bins import BOUNDS
from docmill.pipelines import report_page as report_pages
from docmill.pipelines.assets import job_assets, job_run
from docmill.pipelines.job_files import load_job
from docmill.pipelines.report_page import report_page, write_report_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

DAY, OTHER_DAY = "2026-11-20", "2026-11-19"
MOST_PAGE_BYTES = 250_000
HOSTILE_ID = '<img src="http://evil.example/x.png" onerror=alert(1)>'

WriteJob = Callable[..., Path]
Cli = Any


def layout(job_file: Path, day: str = DAY) -> Layout:
    job = load_job(str(job_file))
    return Layout(job.output.uri, job.partition(day))


def page_of(job_file: Path, day: str = DAY) -> str:
    return Path(layout(job_file, day).report_page).read_text()


def stored_report(job_file: Path, day: str = DAY) -> Report:
    job = load_job(str(job_file))
    report = read_report(job.output.uri, job.partition(day))
    assert report is not None
    return report


def a_long_night(report: Report) -> Report:
    """The report of a small run with the figures of a large one, in which everything happened."""
    report = report.model_copy(deep=True)
    bins = {
        bound: round(4000 * math.exp(-((bound - 300) ** 2) / 40_000)) for bound in BOUNDS if 60 < bound < 900
    }
    for task in report.tasks.values():
        task.prompt_token_bins, task.output_token_bins = bins, {8: 900, 16: 4000, 32: 1200}
        task.errors = {"too_long": 12, "killed_engine": 3}
        task.usd = 1.25
    report.timeline = [
        TimelinePoint(
            worker="w",
            seconds=30.0 * step,
            num_running=256 if step < 90 else 256 - 20 * (step - 90),
            num_waiting=4,
            kv_cache_used=0.7 + 0.2 * math.sin(step / 5),
            num_prompt_tokens=step * 250_000,
            num_output_tokens=step * 40_000,
        )
        for step in range(100)
    ]
    report.engine_settings.max_num_seqs = 256
    report.seconds.wall, report.seconds.fed, report.seconds.engine = 3000.0, 2970.0, 2900.0
    report.idle = Idle(starved=12.0, draining=150.0, writing=3.0)
    report.cost = Cost(usd_per_hour=3.0, usd=2.5, usd_per_1000_documents=0.0125)
    report.dead_letters, report.dead_letters_by_reason = 5, {"killed_engine": 3, "rejected": 2}
    report.slowest = [
        SlowDocument(doc_id=doc_id, shard="deep/part-0001.parquet", row=row, task="topics", seconds=90.5 - row,
                     prompt_tokens=8000, output_tokens=900)
        for row, doc_id in enumerate(["document-1", HOSTILE_ID, "x" * 300, None])
    ]  # fmt: skip
    report.failed_shards = [FailedShard(shard="bad.parquet", error="bad.parquet: not readable as Parquet")]
    report.incidents = [
        IncidentReport(
            kind="died", at=report.started_at, num_in_flight=3, message="killed", action="restarted"
        )
    ]
    expected = Range(low=2.0, expected=2.4, high=3.0)
    report.estimate = Estimate(
        job=report.job, partition=report.partition, made_at=report.started_at, plan=report.plan, documents=200_000,
        counted_documents=20_000, shards=2, failed_shards=0, not_asked_documents=0, duplicate_documents=0,
        reused_documents=0, device="cpu", measured_at=report.started_at, engines=1, usd_per_hour=3.0, usd=expected,
        engine_seconds=expected.times(1200), wall_seconds=expected.times(1200),
        tasks={
            name: TaskEstimate(kind=task.kind, requests=100, duplicate_requests=0, reused_requests=0,
                               prompt_tokens=9000, cached_tokens=100, output_tokens=700, usd=expected.times(0.5))
            for name, task in report.tasks.items()
        },
    )  # fmt: skip
    return report


def days_before(report: Report, number: int) -> list[Report]:
    """Like it, on the days before."""
    found = []
    for back in range(number, 0, -1):
        day = datetime(2026, 11, 20, tzinfo=UTC) - timedelta(days=back)
        earlier = report.model_copy(deep=True, update={"partition": f"dt={day:%Y-%m-%d}"})
        earlier.rates.documents_per_second = 60.0 + 5 * math.sin(back)
        earlier.cost.usd_per_1000_documents = 0.012 + 0.001 * math.cos(back)
        found.append(earlier)
    return found


def test_a_run_leaves_a_page_beside_its_report_and_says_where(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    shown = cli("run", path, "--partition", DAY)
    assert f"page       {layout(path).report_page}" in shown.stdout
    page = page_of(path)
    assert "tickets, dt=2026-11-20" in page
    report = stored_report(path)
    assert f"<b>{report.documents}</b>" in page
    assert f"<b>{report.cost.usd:,.4f}</b>" in page
    assert "No earlier partition of this output is finished." in page


def test_no_text_of_a_document_is_in_it(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(source__generate__hostile=True)
    assert cli("run", path, "--partition", OTHER_DAY).exit_code == 0
    page = page_of(path, OTHER_DAY)
    documents = pl.read_parquet(f"{path.parent}/documents/dt={OTHER_DAY}/part-*.parquet")
    words = {word for text in documents["text"] for word in re.findall(r"\w{9,}", text)}
    assert len(words) > 20
    assert {word for word in words if word in page} == set()
    assert documents["doc_id"][0].split("-")[0] in page  # of the slowest, their ids are


def test_it_compares_itself_with_the_days_before(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    for day in (OTHER_DAY, DAY):
        assert cli("run", path, "--partition", day).exit_code == 0
    table = page_of(path).split("<h2>The last runs</h2>")[1].split("</section>")[0]
    assert table.index(f"<td>{DAY}</td>") < table.index(f"<td>{OTHER_DAY}</td>")
    assert OTHER_DAY not in page_of(path, OTHER_DAY).split("<h2>The last runs</h2>")[1]


def test_a_replay_makes_it_anew(write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_job()
    assert cli("run", path, "--partition", OTHER_DAY).exit_code == 0
    job = load_job(str(path))
    failing = FakeEngine(
        fail=lambda request: RequestError("engine_error", "no") if _is_label(request) else None
    )
    report = run_partition(job, job.partition(DAY), engine=failing)
    write_report_page(job, job.partition(DAY), report)
    assert "Dead letters by reason" in page_of(path)
    monkeypatch.setattr(replays, "start_engine", lambda *_: FakeEngine())
    assert cli("replay", path, "--partition", DAY).exit_code == 0
    assert "Every row has its answer." in page_of(path)
    assert stored_report(path).dead_letters_by_reason == {}


def _is_label(request: Request) -> bool:
    return request.labels is not None


def test_dagster_shows_where_it_lies(write_job: WriteJob) -> None:
    path = write_job()
    job = load_job(str(path))
    definitions = Definitions(assets=job_assets(job), jobs=[job_run(job)])
    with DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def(job.name).execute_in_process(
            instance=instance, partition_key=DAY
        )
    shown = {
        event.asset_key: event.materialization.metadata["report_page"].value
        for event in result.get_asset_materialization_events()
    }
    assert shown == {
        AssetKey([job.name, name]): layout(path).report_page for name in ("translations", "topics", "report")
    }
    assert Path(layout(path).report_page).is_file()


def test_a_page_that_cannot_be_made_fails_no_run(
    write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ZeroDivisionError("a picture of nothing")

    monkeypatch.setattr(report_pages, "report_page", broken)
    path = write_job()
    done = cli("run", path, "--partition", DAY)
    assert done.exit_code == 0
    assert "the report's page was not made: ZeroDivisionError" in done.stderr
    assert not Path(layout(path).report_page).exists()


def test_all_of_a_long_night_fits_into_a_small_file_without_scripts_or_addresses(finished_job: Path) -> None:
    report = a_long_night(stored_report(finished_job))
    page = report_page(
        report, days_before(report, 13), replay="docmill replay tickets --partition 2026-11-20"
    )
    assert len(page.encode()) < MOST_PAGE_BYTES
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:,|#)""", page)
    # SVG's own name, and the hostile id, which is text.
    assert set(re.findall(r"https?://[\w.]+", page)) == {"http://www.w3.org", "http://evil.example"}
    assert "&lt;img src=" in page
    assert "<img" not in page
    for heading in ("Over time", "Where the time went", "Where the money went", "Tokens", "Without an answer",
                    "Slowest documents", "Estimate and bill", "The last runs", "What ran"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 10
    assert page.count("<use ") == page.count(' xlink:href="#') > 0
    assert "`docmill replay tickets --partition 2026-11-20` asks them again" in page


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_reads_well_in_a_browser_and_asks_for_nothing(
    finished_job: Path, page: Page, tmp_path: Path, width: int, scheme: Any
) -> None:
    report = a_long_night(stored_report(finished_job))
    file = tmp_path / "report.html"
    file.write_text(report_page(report, days_before(report, 13)))
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    assert {url for url in requests if not url.startswith("data:")} == {file.as_uri()}
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg").count() == 10
    sizes = page.eval_on_selector_all(
        "svg text", "texts => texts.map(text => text.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 10  # pixels: a picture that is scaled down too far cannot be read
    inks = page.eval_on_selector_all("svg text", "texts => texts.map(text => getComputedStyle(text).fill)")
    ground = page.evaluate("getComputedStyle(document.querySelector('figure')).backgroundColor")
    assert min(contrast(ink, ground) for ink in set(inks)) > 4.5
    outside = page.eval_on_selector_all(
        "svg",
        """pictures => pictures.flatMap(picture => {
            const frame = picture.getBoundingClientRect();
            return [...picture.querySelectorAll("text")]
                .filter(text => { const box = text.getBoundingClientRect();
                                  return box.left < frame.left - 1 || box.right > frame.right + 1; })
                .map(text => text.textContent);
        })""",
    )
    assert outside == []


def contrast(first: str, second: str) -> float:
    """Of two colours as browsers say them, by WCAG."""
    light = []
    for color in (first, second):
        channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)
