"""What starts a job by itself: ticks of its schedule, looks of its sensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from dagster import (
    DagsterInstance,
    RunRequest,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
)

from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.pipelines.assets import job_run
from docmill.pipelines.definitions import docmill_definitions
from docmill.pipelines.job_files import load_job
from docmill.pipelines.timetable import arrival_sensor, job_schedule

WriteJob = Callable[..., Path]
BERLIN = ZoneInfo("Europe/Berlin")
WHOLE = {"source": {"uri": "whole", "partition_key": None}}
NIGHTLY = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
HOURLY = {"cron": "10 * * * *", "timezone": "Europe/Berlin"}


@pytest.fixture
def own_job(write_job: WriteJob, tmp_path: Path) -> Callable[..., Job]:
    """The job over files of one's own, from 18 November on."""

    def make(**changes: Any) -> Job:
        values = {
            "source__generate": None,
            "source__carry": None,
            "source__start_date": "2026-11-18",
        } | changes
        return load_job(str(write_job(**values)))

    return make


def write_shard(job: Job, day: str | None, name: str = "a", *, documents: int = 3) -> None:
    folder = Path(job.source.uri) / (f"dt={day}" if day else "")
    folder.mkdir(parents=True, exist_ok=True)
    texts = pl.DataFrame({"doc_id": [f"{name}{n}" for n in range(documents)], "text": ["Hallo."] * documents})
    texts.write_parquet(folder / f"{name}.parquet")


def tick(job: Job, at: datetime) -> Any:
    schedule = job_schedule(job, job_run(job))
    assert schedule is not None
    with DagsterInstance.ephemeral() as instance:
        return schedule(build_schedule_context(instance, at))


@pytest.mark.parametrize(
    ("hour", "minute", "day"),
    [
        (2, 30, "2026-11-20"),
        (0, 10, "2026-11-20"),  # in London, and by UTC, the 20th is not over yet
        (23, 50, "2026-11-20"),
    ],
)
def test_a_tick_asks_for_the_last_day_that_is_over_where_its_clock_hangs(
    hour: int, minute: int, day: str, own_job: Callable[..., Job]
) -> None:
    job = own_job(schedule=NIGHTLY)
    request = tick(job, datetime(2026, 11, 21, hour, minute, tzinfo=BERLIN))
    assert isinstance(request, RunRequest)
    assert request.partition_key == day


def test_before_the_first_day_is_over_a_tick_says_so(own_job: Callable[..., Job]) -> None:
    skipped = tick(own_job(schedule=NIGHTLY), datetime(2026, 11, 18, 12, tzinfo=BERLIN))
    assert isinstance(skipped, SkipReason)
    assert skipped.skip_message == "no day of the source is over yet; the first is 2026-11-18"


def test_a_tick_asks_for_the_last_hour_that_is_over_by_utc(own_job: Callable[..., Job]) -> None:
    job = own_job(schedule=HOURLY, source__partition_every="hour")
    request = tick(job, datetime(2026, 11, 20, 7, 10, tzinfo=BERLIN))
    assert isinstance(request, RunRequest)
    assert request.partition_key == "2026-11-20-05"
    skipped = tick(job, datetime(2026, 11, 18, 1, 10, tzinfo=BERLIN))
    assert isinstance(skipped, SkipReason)
    assert skipped.skip_message == "no hour of the source is over yet; the first is 2026-11-18-00"


def test_an_unpartitioned_job_is_started_whole(own_job: Callable[..., Job]) -> None:
    job = own_job(schedule=NIGHTLY, **WHOLE)
    request = tick(job, datetime(2026, 11, 21, tzinfo=BERLIN))
    assert isinstance(request, RunRequest)
    assert request.partition_key is None


class Looks:
    """A sensor and its cursor between the looks."""

    def __init__(self, job: Job):
        sensor = arrival_sensor(job, job_run(job))
        assert sensor is not None
        self.sensor, self.cursor = sensor, ""

    def look(self) -> list[tuple[str | None, str | None]]:
        """Partitions and run keys that it asks for."""
        with DagsterInstance.ephemeral() as instance:
            result = self.sensor(build_sensor_context(instance, cursor=self.cursor))
        assert isinstance(result, SensorResult)
        self.cursor = result.cursor or ""
        return [(request.partition_key, request.run_key) for request in result.run_requests or []]

    def minutes_later(self, minutes: float) -> None:
        """As if the cursor were so much older."""
        watched = json.loads(self.cursor)
        for known in watched.values():
            known["since"] -= 60 * minutes
        self.cursor = json.dumps(watched)


def test_files_that_have_settled_start_their_day_once(own_job: Callable[..., Job], cli: Any) -> None:
    job = own_job(arrival={"settled_minutes": 15})
    looks = Looks(job)
    assert looks.look() == [], "there is nothing yet"
    write_shard(job, "2026-11-20")
    assert looks.look() == [], "it has just come"
    looks.minutes_later(14)
    assert looks.look() == [], "not yet"
    write_shard(job, "2026-11-20", "b")
    looks.minutes_later(2)
    assert looks.look() == [], "it has grown: its time begins anew"
    looks.minutes_later(16)
    [(day, key)] = looks.look()
    assert day == "2026-11-20"
    assert looks.look() == [(day, key)], "the same key, which Dagster starts only once"


def test_a_day_with_its_answers_is_left_alone_until_a_file_comes_late(
    own_job: Callable[..., Job], tmp_path: Path, cli: Any
) -> None:
    job = own_job(arrival={"settled_minutes": 0})
    write_shard(job, "2026-11-20")
    looks = Looks(job)
    [(_, key)] = looks.look()
    result = cli("run", tmp_path / "jobs/tickets.yaml", "--partition", "2026-11-20")
    assert result.exit_code == 0, result.output
    assert looks.look() == []
    write_shard(job, "2026-11-20", "late")
    [(day, later_key)] = looks.look()
    assert (day, later_key != key) == ("2026-11-20", True)


def test_a_day_is_started_again_when_a_task_asks_otherwise(
    own_job: Callable[..., Job], tmp_path: Path, cli: Any
) -> None:
    job = own_job(arrival={"settled_minutes": 0})
    write_shard(job, "2026-11-20")
    assert cli("run", tmp_path / "jobs/tickets.yaml", "--partition", "2026-11-20").exit_code == 0
    assert Looks(job).look() == []
    changed = own_job(
        arrival={"settled_minutes": 0},
        tasks={"translations": {"kind": "translate", "target_language": "French"}},
    )
    assert [day for day, _ in Looks(changed).look()] == ["2026-11-20"]


def test_only_the_newest_days_that_are_over_are_watched(own_job: Callable[..., Job]) -> None:
    job = own_job(arrival={"settled_minutes": 0, "look_back": 2})
    for day in ("2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20"):
        write_shard(job, day)
    assert [day for day, _ in Looks(job).look()] == ["2026-11-19", "2026-11-20"]
    write_shard(job, "2999-01-01")  # a day that is not over
    assert [day for day, _ in Looks(job).look()] == ["2026-11-20"]


def test_hours_are_watched_once_they_are_over(own_job: Callable[..., Job]) -> None:
    job = own_job(arrival={"settled_minutes": 0, "look_back": 3}, source__partition_every="hour")
    for hour in ("2026-11-19-23", "2026-11-20-04", "2026-11-20-05", "2999-01-01-00"):
        write_shard(job, hour)
    assert [hour for hour, _ in Looks(job).look()] == ["2026-11-20-04", "2026-11-20-05"]


def test_a_source_that_is_one_partition_is_watched_too(own_job: Callable[..., Job]) -> None:
    job = own_job(arrival={"settled_minutes": 0}, **WHOLE)
    write_shard(job, None)
    [(day, key)] = Looks(job).look()
    assert (day, str(key).split()[0]) == (None, "all")


def test_definitions_hold_what_the_job_asks_for_and_nothing_else(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job(schedule=NIGHTLY, arrival={}).parent))
    repository = docmill_definitions().get_repository_def()
    assert [schedule.name for schedule in repository.schedule_defs] == ["tickets__schedule"]
    assert [sensor.name for sensor in repository.sensor_defs] == ["tickets__arrivals"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"schedule": {"cron": "at night"}},
            "schedule.cron: 'at night' is no cron string; expected minute, hour",
        ),
        (
            {"schedule": {"cron": "0 2 * * *", "timezone": "Berlin"}},
            "schedule.timezone: 'Berlin' is no time zone",
        ),
        ({"schedule": {}}, "schedule.cron: is missing"),
        (
            {"arrival": {"settled_minutes": -1}},
            "arrival.settled_minutes: expected greater than or equal to 0",
        ),
        (
            {"arrival": {"every": 1}},
            "arrival.every: there is no such key; allowed: settled_minutes, look_back",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error_of_the_job_file(
    changes: dict[str, Any], words: str, write_job: WriteJob
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(str(write_job(**changes)))
    assert words in str(caught.value)
