"""What `docmill doctor` finds, and when it ends with 1."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docmill.pipelines.exit_codes import ExitCode

WriteJob = Callable[..., Path]
Cli = Any


def levels(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["level"] for check in found["checks"]}


def test_a_healthy_machine_and_job_are_ok(write_job: WriteJob, cli: Cli) -> None:
    found = cli.json("doctor", write_job())
    assert found["ok"]
    expected = {
        "versions",
        "python",
        "vllm",
        "gpu",
        "memory",
        "dagster",
        "job files",
        "job",
        "model",
        "source",
        "output",
        "ray",
        "ledger",
    }
    assert expected <= set(levels(found))
    assert all(check["remedy"] for check in found["checks"] if check["level"] != "ok")


def test_it_says_where_the_ledger_of_a_run_lies(write_job: WriteJob, cli: Cli) -> None:
    path = write_job()
    [ledger] = [check for check in cli.json("doctor", path)["checks"] if check["name"] == "ledger"]
    assert ledger["found"].startswith(f"{path.parent}/answers/_docmill/dt=... while a run is under way")


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({}, "for tickets: none; there is no GPU"),
        ({"kernels": "off"}, "for tickets: none"),
        ({"kernels": ["silu_mul_quant"]}, "for tickets: silu_mul_quant; not named in `engine.kernels`"),
    ],
)
def test_it_says_what_serves_the_kernels_and_which_a_job_will_have(
    engine: dict[str, Any], words: str, write_job: WriteJob, cli: Cli
) -> None:
    found = cli.json("doctor", write_job(engine={"kind": "vllm", "device": "cpu", **engine}))
    [kernels] = [check for check in found["checks"] if check["name"] == "kernels"]
    assert kernels["found"].startswith("their twins in PyTorch: ")
    assert words in kernels["found"]
    assert kernels["found"].endswith("none") == (engine == {"kernels": "off"})


def test_the_list_for_people_names_the_remedies(write_job: WriteJob, cli: Cli) -> None:
    result = cli("doctor", write_job(model={"source": "./nothing"}))
    assert result.exit_code == ExitCode.FAILED
    assert "fail  model" in result.stdout
    assert "correct `model.source`" in result.stdout


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"model": {"source": "./nothing"}}, "model"),
        ({"source__generate": None, "source__start_date": "2026-11-20"}, "source"),
        ({"output__uri": "/dev/null/answers"}, "output"),
        ({"tasks__topics__labels": ["a"]}, "job"),
    ],
)
def test_what_is_needed_and_missing_fails(
    write_job: WriteJob, cli: Cli, changes: dict[str, Any], failing: str
) -> None:
    found = cli.json("doctor", write_job(**changes), exit_code=ExitCode.FAILED)
    assert [name for name, level in levels(found).items() if level == "fail"] == [failing]


def test_a_broken_job_file_fails(write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMILL_JOBS", str(write_job("broken", text="name: x").parent))
    assert levels(cli.json("doctor", exit_code=ExitCode.FAILED))["job file"] == "fail"


def test_a_store_that_does_not_answer_is_named_without_the_secret(
    write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")
    result = cli("doctor", write_job(source={"uri": "s3://bucket/x", "start_date": "2026-11-20"}))
    assert result.exit_code == ExitCode.FAILED
    assert "no answer from http://127.0.0.1:9" in result.stdout
    assert "a-very-secret-key" not in result.output


def test_a_store_is_tested_by_writing(
    moto_server: Any, write_job: WriteJob, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env().items():
        monkeypatch.setenv(name, value)
    found = cli.json("doctor", write_job(output__uri=moto_server.uri("doctor/answers")))
    assert levels(found)["output"] == "ok"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(found)
    missing = cli.json("doctor", write_job(output__uri="s3://no-such-bucket/x"), exit_code=ExitCode.FAILED)
    assert levels(missing)["output"] == "fail"
