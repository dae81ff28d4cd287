"""`docmill new`: every template is a job that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from docmill.engine.vllm_engine import VllmEngine
from docmill.ops.partition_job import run_partition
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job
from docmill.pipelines.new_command import job_name, template_names

TEXTS = [
    "Guten Tag, die Lampe aus Bestellung 4711 ist beschädigt angekommen.",
    "Rechnung 12 ist falsch.",
    "产品很好。",
]


def test_there_is_a_template_for_each_common_job() -> None:
    assert template_names() == [
        "intents",
        "moderation",
        "questions",
        "sentiment",
        "summaries",
        "topics",
        "translation",
    ]


@pytest.mark.vllm
@pytest.mark.parametrize("template", template_names())
def test_a_template_is_a_job_that_runs(
    template: str, tmp_path: Path, cli: Any, vllm_engine: VllmEngine
) -> None:
    """On the real model, which is too small for good answers but not for answers of the right form."""
    (tmp_path / "texts").mkdir()
    pl.DataFrame({"number": [1, 2, 3], "body": TEXTS}).write_parquet(tmp_path / "texts/a.parquet")
    path = tmp_path / "my job.yaml"
    options = ("--source", "texts", "--output", "out", "--id-column", "number", "--text-column", "body")
    result = cli("new", template, path, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {path}; next: docmill doctor {path}\n"
    job = load_job(str(path))
    assert (job.name, job.source.uri, job.output.uri) == (
        "my_job",
        str(tmp_path / "texts"),
        str(tmp_path / "out"),
    )
    run_partition(job, job.partition(None), engine=vllm_engine)
    [task] = job.tasks
    answers = pl.read_parquet(tmp_path / f"out/{task}/a.parquet")
    assert answers["status"].to_list() == ["ok"] * 3
    answer = answers[job.tasks[task].columns[0].name]
    if template == "questions":
        assert all(set(json.loads(text)) == {"author", "subject", "next_step"} for text in answer)
    elif hasattr(job.tasks[task], "labels"):
        assert set(answer) <= set(job.tasks[task].labels)


def test_json_names_the_file_and_its_job(tmp_path: Path, cli: Any) -> None:
    path = tmp_path / "mine.yaml"
    assert cli.json("new", "topics", path) == {"file": str(path), "job": "mine", "tasks": ["topic"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["topic"], "there is no template 'topic'; did you mean 'topics'?"),
        (["topics", "{tmp}/there.yaml"], "there.yaml is there already"),
        (["topics", "{tmp}/nowhere/job.yaml"], "there is no folder"),
        (["topics", "{tmp}/new.yaml", "--output", ""], "output.uri: is empty"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(
    arguments: list[str], words: str, tmp_path: Path, cli: Any
) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    result = cli("new", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr
    assert [path.name for path in tmp_path.glob("*.yaml")] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("value", "read"),
    [("s3://bucket/a-b", "s3://bucket/a-b"), ("a: b #c", "a: b #c"), ("1234", "1234"), ("yes", "yes")],
)
def test_values_are_read_as_they_were_written(value: str, read: str, tmp_path: Path, cli: Any) -> None:
    result = cli("new", "topics", tmp_path / "job.yaml", "--id-column", value)
    assert result.exit_code == 0, result.output
    assert load_job(str(tmp_path / "job.yaml")).source.id_column == read


@pytest.mark.parametrize(
    ("stem", "name"),
    [("My Job", "my_job"), ("2026-nights", "job_2026_nights"), ("überblick", "berblick"), ("__", "job")],
)
def test_a_file_gives_its_job_a_name(stem: str, name: str) -> None:
    assert job_name(stem) == name
