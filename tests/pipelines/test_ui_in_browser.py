"""What a person does in the pages of `docmill ui`, with the mouse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from docmill_ui import DocmillUi

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"

StartUi = Callable[..., DocmillUi]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_a_user_materialises_a_day_reads_its_figures_and_backfills_the_others_in_the_pages(
    start_ui: StartUi,
    write_job: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    page: Page,
) -> None:
    """As a person does it, with the mouse; pictures of it lie in build/screenshots afterwards."""
    days = ["2026-11-18", "2026-11-19", "2026-11-20"]
    path = write_job(source__generate__days=days)
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    ui = start_ui()
    ui.repository()
    page.set_default_timeout(150_000)  # beside other tests, pages take their time

    graph = f"{ui.url}/locations/docmill.pipelines.definitions/asset-groups/tickets/lineage"
    page.goto(graph)
    for name in ("documents", "topics", "translations", "report"):
        page.get_by_text(name, exact=True).first.wait_for()

    page.goto(f"{ui.url}/assets/tickets/topics")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Latest").click()
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("Launched run").wait_for()
    page.goto(f"{ui.url}/runs")
    page.get_by_text("Success").first.wait_for()

    page.goto(f"{ui.url}/assets/tickets/topics?partition=2026-11-20&view=partitions")
    page.get_by_text("prompt_tokens").first.wait_for()
    assert page.get_by_text("report_page").first.is_visible()
    take_picture(page, "partition")
    page.goto(f"{ui.url}/assets/tickets/topics?view=checks")
    page.get_by_text("12 rows: 12 ok, 0 failed, 0 skipped").first.wait_for()
    assert page.get_by_text("Succeeded").count() == 3
    take_picture(page, "checks")

    page.goto(f"{ui.url}/assets/tickets/topics")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch").last.click()
    assert {run["status"] for run in ui.finished_runs(4)} == {"SUCCESS"}
    page.goto(graph)
    page.get_by_text("3 / 3 Passed").first.wait_for()
    take_picture(page, "graph")

    page.goto(f"{ui.url}/assets/tickets/topics")
    page.get_by_role("button", name="Plots").click()
    page.get_by_text("usd_per_1000_documents").first.wait_for()
    page.locator("canvas").first.wait_for()
    take_picture(page, "plots")

    # Another prompt: the task's days are out of date, and no other's.
    values = yaml.safe_load(path.read_text())
    values["tasks"]["topics"]["instruction"] = "Which of these is it about: {labels}?"
    path.write_text(yaml.safe_dump(values))
    ui.reload()
    for task, number in (("topics", 1), ("translations", 0)):
        page.goto(f"{ui.url}/assets/tickets/{task}?partition=2026-11-20&view=partitions")
        page.get_by_text("Latest materialization").first.wait_for()
        if number:
            page.get_by_text("Unsynced (1)").first.wait_for()
            take_picture(page, "another-prompt")
        assert page.get_by_text("Unsynced").count() == number

    page.goto((path.parent / "answers/_docmill/dt=2026-11-19/report.html").as_uri())
    page.get_by_text("tickets").first.wait_for()
    take_picture(page, "report")


def take_picture(page: Page, name: str) -> None:
    page.wait_for_timeout(1000)  # what moves has come to rest
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
