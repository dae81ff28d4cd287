"""`docmill ui`: up, reachable, and gone without a trace."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psutil
import pytest
from servers.hook import Hook

from docmill.pipelines.backfill import look_at, open_instance
from docmill.pipelines.exit_codes import ExitCode

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"
DOCMILL = str(Path(sys.executable).with_name("docmill"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_refused_by_name(cli: Any, taken_port: int) -> None:
    result = cli("ui", "--port", taken_port)
    assert result.exit_code == ExitCode.USAGE
    assert f"port {taken_port} is taken" in result.stderr


@pytest.fixture
def start_ui(tmp_path: Path) -> Iterator[Callable[[], Ui]]:
    """Starts `docmill ui` and waits until it says where it answers."""
    started: list[Ui] = []

    def start() -> Ui:
        started.append(Ui(tmp_path))
        return started[-1]

    yield start
    for ui in started:
        if ui.process.poll() is None:
            ui.process.terminate()
            ui.process.communicate(timeout=90)


class Ui:
    """A running `docmill ui`."""

    def __init__(self, folder: Path):
        self.messages = folder / "stderr.txt"
        with self.messages.open("w") as stderr:
            self.process = subprocess.Popen(
                [DOCMILL, "ui"], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Dagster answers at http://127.0.0.1:"), self.messages.read_text()
        self.url = line.split()[3]

    def ask(self, query: str, **variables: Any) -> Any:
        """The answer of Dagster's GraphQL."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["data"]

    def repository(self) -> dict[str, Any]:
        """The code location; it may load for a while after the pages answer."""
        query = (
            "{repositoriesOrError {... on RepositoryConnection {nodes {name location {name} jobs {name}}}}}"
        )
        for _ in range(60):
            if nodes := self.ask(query)["repositoriesOrError"]["nodes"]:
                return dict(nodes[0])
            time.sleep(1)
        raise AssertionError("no code location loaded")

    def launch(self, job: str, partition: str) -> None:
        """Put a run into the queue."""
        repository = self.repository()
        mutation = "mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {__typename}}"
        parameters = {
            "selector": {
                "repositoryName": repository["name"],
                "repositoryLocationName": repository["location"]["name"],
                "jobName": job,
            },
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        assert self.ask(mutation, p=parameters)["launchRun"]["__typename"] == "LaunchRunSuccess"

    def finished_runs(self, number: int) -> list[dict[str, Any]]:
        """That many runs, when all have ended; by the time they started."""
        for _ in range(120):
            runs = self.ask("{runsOrError {... on Runs {results {status startTime endTime}}}}")[
                "runsOrError"
            ]["results"]
            if len(runs) == number and all(run["endTime"] for run in runs):
                return sorted(runs, key=lambda run: run["startTime"])
            time.sleep(1)
        raise AssertionError(f"not finished: {runs}")

    def sensors_that_have_looked(self) -> set[str]:
        """Those with a look that has ended, whatever it found."""
        repository = self.repository()
        query = """query($r: RepositorySelector!) {sensorsOrError(repositorySelector: $r) {
            ... on Sensors {results {name sensorState {ticks(limit: 1, statuses: [SKIPPED, SUCCESS]) {id}}}}}}"""
        selector = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
        }
        found = self.ask(query, r=selector)["sensorsOrError"]["results"]
        return {sensor["name"] for sensor in found if sensor["sensorState"]["ticks"]}

    def runs_started_by(self, *tags: str, may_fail: Collection[str] = ()) -> set[tuple[str, str, str]]:
        """Job, starter and day of successful runs, when there is one with each of the tags."""
        found: set[tuple[str, str, str]] = set()
        for _ in range(240):
            runs = self.ask("{runsOrError {... on Runs {results {status jobName tags {key value}}}}}")[
                "runsOrError"
            ]["results"]
            assert not [run for run in runs if run["status"] == "FAILURE" and run["jobName"] not in may_fail]
            done = [
                (run["jobName"], {tag["key"]: tag["value"] for tag in run["tags"]})
                for run in runs
                if run["status"] == "SUCCESS"
            ]
            found = {
                (job, known[tag], known["dagster/partition"])
                for job, known in done
                for tag in tags
                if tag in known
            }
            if all(any(tag in known for _, known in done) for tag in tags):
                return found
            time.sleep(1)
        raise AssertionError(f"not all have started and succeeded: {found}")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_answer_until_the_process_is_told_to_stop(
    start_ui: Callable[[], Ui], tmp_path: Path, sent: signal.Signals
) -> None:
    ui = start_ui()
    children = psutil.Process(ui.process.pid).children(recursive=True)
    assert {job["name"] for job in ui.repository()["jobs"]} >= {"demo", "distributions"}
    assert (tmp_path / "home" / "dagster" / "dagster.yaml").exists()
    ui.process.send_signal(sent)
    ui.process.communicate(timeout=90)
    assert ui.process.returncode == 0
    assert "Traceback" not in ui.messages.read_text()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.slow
def test_two_days_at_once_run_one_after_the_other(
    start_ui: Callable[[], Ui], write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two runs of a fresh Dagster: when it has not met the engine's pool before, it lets both through."""
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job().parent))
    ui = start_ui()
    for day in ("2026-11-19", "2026-11-20"):
        ui.launch("tickets", day)
    first, second = ui.finished_runs(2)
    assert (first["status"], second["status"]) == ("SUCCESS", "SUCCESS")
    assert first["endTime"] <= second["startTime"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_daemon_starts_runs_by_the_clock_and_by_the_files(
    start_ui: Callable[[], Ui],
    write_job: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    hook: Hook,
) -> None:
    """Jobs that are on as soon as they are there: nobody switches anything on. And the hook of one that fails."""
    path = write_job(schedule={"cron": "* * * * *"})
    write_job(
        "arriving",
        name="arriving",
        output__uri="others",
        arrival={"settled_minutes": 0, "interval_seconds": 2},
        source__generate__days=["2026-11-20"],
    )
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    write_job(
        "failing",
        name="failing",
        source={"uri": "nothing", "start_date": "2026-11-01"},
        on_failure={"url": "${TICKETS_HOOK}"},
    )
    ui = start_ui()
    wait_until(lambda: "failing__failures" in ui.sensors_that_have_looked())
    ui.launch("failing", "2026-11-20")
    started = ui.runs_started_by("dagster/schedule_name", "dagster/sensor_name", may_fail=["failing"])
    assert started == {
        ("tickets", "tickets__schedule", "2026-11-20"),
        ("arriving", "arriving__arrivals", "2026-11-20"),
    }
    assert (tmp_path / "jobs/others/topics/dt=2026-11-20").is_dir()
    wait_until(lambda: bool(hook.messages))
    [message] = hook.messages
    assert (message["job"], message["partition"]) == ("failing", "2026-11-20")
    assert "no *.parquet files below" in message["error"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_backfill_runs_the_days_two_at_a_time_and_each_once(
    start_ui: Callable[[], Ui], write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    days = [f"2026-11-{day}" for day in range(15, 20)]
    path = write_job(source__generate__days=days)
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    assert cli("run", path, "--partition", days[0]).exit_code == 0  # so there is nothing to do about it
    ui = start_ui()
    ui.repository()
    found = cli.json("backfill", path, "--max-parallel", 2, "--wait")
    assert found["days"] == {"to_run": days[1:], "up_to_date": days[:1], "not_over": []}
    assert found["backfill"]["state"] == {
        "is_over": True,
        "succeeded": 4,
        "failed": 0,
        "running": 0,
        "total": 4,
    }
    runs = ui.finished_runs(4)
    assert {run["status"] for run in runs} == {"SUCCESS"}
    moments = sorted([(run["startTime"], 1) for run in runs] + [(run["endTime"], -1) for run in runs])
    together = [sum(change for _, change in moments[: place + 1]) for place in range(len(moments))]
    assert max(together) == 2
    again = cli.json("backfill", path, "--wait")
    assert again["days"]["to_run"] == []
    assert "backfill" not in again


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_backfill_goes_on_after_its_daemon_was_killed_and_doubles_nothing(
    start_ui: Callable[[], Ui], write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    days = [f"2026-11-{day}" for day in range(15, 20)]
    path = write_job(source__generate__days=days)
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    first = start_ui()
    first.repository()
    backfill_id = cli.json("backfill", path)["backfill"]["id"]
    with open_instance() as instance:
        wait_until(lambda: look_at(instance, backfill_id, len(days)).succeeded >= 1)
        children = psutil.Process(first.process.pid).children(recursive=True)
        [daemon] = [child for child in children if "dagster._daemon" in child.cmdline()]
        daemon.kill()
        first.process.communicate(timeout=120)
        assert first.process.returncode != 0, "it has lost its daemon, and says so"
        state = look_at(instance, backfill_id, len(days))
        assert state.succeeded < len(days), "there was nothing left to go on with"
        start_ui()
        wait_until(lambda: look_at(instance, backfill_id, len(days)).is_over)
        assert look_at(instance, backfill_id, len(days)).is_complete
    answers = pl.read_parquet(path.parent / "answers/topics/**/*.parquet", hive_partitioning=True)
    assert answers.group_by("dt").len()["len"].to_list() == [12] * len(days)
    assert answers["doc_id"].n_unique() == 12 * len(days)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_a_user_materialises_a_day_reads_its_figures_and_backfills_the_others_in_the_pages(
    start_ui: Callable[[], Ui],
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
    page.set_default_timeout(60_000)

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

    page.goto((path.parent / "answers/_docmill/dt=2026-11-19/report.html").as_uri())
    page.get_by_text("tickets").first.wait_for()
    take_picture(page, "report")


def take_picture(page: Page, name: str) -> None:
    page.wait_for_timeout(1000)  # what moves has come to rest
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def wait_until(holds: Callable[[], bool], *, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.5)
