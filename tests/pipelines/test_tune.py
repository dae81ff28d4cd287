"""`docmill tune` on the fake engine, whose steps take a while: the more sequences, the faster, until memory is out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.engine.hardware import hardware_of
from docmill.engine.tuned import TunedEngine, place_of
from docmill.ops.tuned_engines import store_tuned
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"
WriteJob = Callable[..., Path]
Cli = Any


@pytest.fixture
def slow_job(write_job: WriteJob) -> Path:
    """240 documents with two tasks, 64 requests a step: with 128 it takes half as many, and 256 do not fit."""
    engine = {"kind": "fake", "extra": {"step_seconds": 0.15, "most_num_seqs": 200}}
    return write_job(engine=engine, source__generate__documents_per_day=240)


def stored(path: Path) -> Path:
    return Path(Layout.tuning(load_job(str(path)).output.uri))


def test_it_finds_stores_and_shows_the_faster_settings_and_the_next_run_has_them(
    slow_job: Path, cli: Cli
) -> None:
    plain = cli.json("run", slow_job, "--partition", DAY)
    found = cli.json("tune", slow_job, "--partition", DAY, "--documents", 240, "--minutes", 5)
    assert found["present"] == {"max_num_seqs": 64}
    assert (found["verdict"], found["best"]) == ("faster", {"max_num_seqs": 128})
    assert 1.3 < found["speedup"] < 2.5
    assert (found["documents"], found["documents_total"]) == (240, 240)
    assert found["complete"] is True
    died = [trial for trial in found["trials"] if trial["trouble"]]
    assert [trial["settings"] for trial in died] == [{"max_num_seqs": 256}]
    assert "out of memory" in died[0]["trouble"]
    assert died[0]["tokens_per_second"] is None
    assert found["trials"][0]["ratio"] == 1.0
    assert found["stored"] == str(stored(slow_job))
    assert stored(slow_job).is_file()

    shown = cli("run", slow_job, "--partition", DAY)
    assert "engine     max_num_seqs 128; tuned: max_num_seqs" in shown.stdout
    planned = cli("plan", slow_job, "--partition", DAY)
    assert "measuring" not in planned.stderr, "tuning has measured what the tuned engine takes"
    report = cli.json("run", slow_job, "--partition", DAY)
    assert report["engine_settings"]["tuned"] == {"max_num_seqs": 128}
    assert plain["engine_settings"]["tuned"] == {}
    assert report["plan"] == plain["plan"]

    again = cli.json("tune", slow_job, "--partition", DAY, "--documents", 240, "--minutes", 5)
    assert again["present"] == {"max_num_seqs": 128}, "it goes on from what was found"
    assert again["verdict"] == "nothing faster"
    assert stored(slow_job).is_file()


def test_the_table_has_a_line_for_every_trial_and_no_folder_stays(slow_job: Path, cli: Cli) -> None:
    result = cli("tune", slow_job, "--partition", DAY, "--documents", 240)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert rows[0][0] == "64"
    assert rows[0][-1] == "present"
    assert [row[0] for row in rows[1:3]] == ["128", "256"]
    assert sum(row[-1] == "again" for row in rows) == 6
    assert "sequences do not fit" in result.stdout
    for start in ("sample ", "time ", "faster ", "stored "):
        assert any(line.startswith(start) for line in lines), start
    assert "trial 2: max_num_seqs 128: " in result.stderr
    internal = stored(slow_job).parent
    assert not list(internal.glob("probe-*")), "the trials' answers are gone"
    assert not list((internal.parent).glob("topics")), "and nobody takes them for answers"


def test_forgetting_takes_it_out(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    job = load_job(str(path))
    place = place_of(job.engine, model_fingerprint="fake", hardware=hardware_of(job.engine, "cpu"))
    engine = TunedEngine(
        place=place, settings={"max_num_seqs": 9}, speedup=2.0, measured_at=datetime.now(UTC), documents=9
    )
    store_tuned(job.output.uri, engine)
    assert cli.json("run", path, "--partition", DAY)["engine_settings"]["tuned"] == {"max_num_seqs": 9}
    assert cli.json("tune", path, "--forget") == {"job": "tickets", "forgotten": 1}
    assert "nothing was tuned" in cli("tune", path, "--forget").stdout
    assert cli.json("run", path, "--partition", DAY)["engine_settings"]["tuned"] == {}


def test_where_nothing_is_faster_nothing_is_stored(write_job: WriteJob, cli: Cli) -> None:
    """All requests fit into one step, so a larger batch is no help; half a batch is as good."""
    path = write_job(engine={"kind": "fake", "extra": {"step_seconds": 0.4}})
    result = cli("tune", path, "--partition", DAY)
    assert result.exit_code == 0, result.output
    assert "unchanged  " in result.stdout
    assert not stored(path).exists()


def test_too_little_time_says_how_much_would_do(slow_job: Path, cli: Cli) -> None:
    result = cli("tune", slow_job, "--partition", DAY, "--documents", 240, "--minutes", 0.1)
    assert result.exit_code == 0
    assert "unchanged  too little time: a trial took " in result.stdout
    assert "--minutes " in result.stdout
    assert not stored(slow_job).exists()


def test_an_fp8_cache_is_tried_only_where_it_is_asked_for_and_not_twice(
    cli: Cli, write_job: WriteJob
) -> None:
    """The fake engine does not know it, so it is no faster."""
    path = write_job(engine={"kind": "fake", "extra": {"step_seconds": 0.4, "most_num_seqs": 64}})
    found = cli.json("tune", path, "--partition", DAY, "--fp8-kv")
    assert found["present"]["kv_cache_dtype"] == "auto"
    tried = [trial["settings"]["kv_cache_dtype"] for trial in found["trials"]]
    assert "fp8" in tried
    assert found["verdict"] != "faster"
    named = write_job(engine={"kind": "fake", "extra": {"kv_cache_dtype": "fp8"}})
    refused = cli("tune", named, "--partition", DAY, "--fp8-kv")
    assert refused.exit_code == 2
    assert "engine.extra.kv_cache_dtype is set already" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--partition", "2031-01-01"], "2031-01-01"),
        (["--minutes", "0"], "--minutes"),
        (["--documents", "0"], "--documents"),
    ],
)
def test_bad_input_is_named(write_job: WriteJob, cli: Cli, arguments: list[str], words: str) -> None:
    result = cli("tune", write_job(), "--partition", DAY, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_job_whose_file_says_everything_is_left_alone(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(engine={"kind": "fake", "max_num_seqs": 8})
    result = cli("tune", path, "--partition", DAY)
    assert result.exit_code == 2
    assert "the job's file says all that could be tuned" in result.stderr


def test_an_engine_that_does_not_work_as_it_is_ends_the_command(write_job: WriteJob, cli: Cli) -> None:
    path = write_job(engine={"kind": "fake", "extra": {"most_num_seqs": 8}})
    result = cli.json("tune", path, "--partition", DAY, exit_code=5)
    assert "64 sequences do not fit" in result["error"]["message"]
    internal = stored(path).parent
    assert not list(internal.glob("probe-*"))
    assert not storage.exists(Layout.tuning(load_job(str(path)).output.uri))
