"""`docmill compress` on the fake engine: what it prints, and what it says of wrong input before anything has run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docmill.data import storage
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job

DAY = "2026-11-20"
WriteJob = Callable[..., Path]
Cli = Any


@pytest.fixture
def job(write_job: WriteJob) -> Path:
    """150 documents a day. The fake engine's answers hang on token ids, which trimming changes; hence the budget."""
    return write_job(
        source__generate__documents_per_day=150,
        model={"compress": {"max_drop": 0.5}},
        tasks={"translations": {"kind": "translate"}},
    )


def published(job: Path) -> list[str]:
    return [file.name for file in storage.list_files(f"{load_job(str(job)).output.uri}/_docmill/models")]


def test_it_makes_a_model_once_and_again_where_it_is_told_to(job: Path, cli: Cli) -> None:
    made = cli.json("compress", job, "--partition", DAY, "--recipe", "trim")
    assert made["made"] is True
    assert made["trials"][0]["figures"]["rows_after"] < made["trials"][0]["figures"]["rows_before"]
    assert (Path(made["checkpoint"]) / "config.json").is_file()
    shown = cli("compress", job, "--partition", DAY, "--recipe", "trim").stdout
    for words in (
        "reused     made on",
        made["checkpoint"],
        "unseen     ",
        "{compress: {recipe: trim, max_drop: 0.5}}",
    ):
        assert words in shown
    again = cli.json("compress", job, "--partition", DAY, "--recipe", "trim", "--again")
    assert again["made"] is True
    assert again["checkpoint"] != made["checkpoint"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--recipe", "int4"),
            "--recipe: expected 'auto', 'int8', 'fp8', 'w4a16', 'prune' or 'trim', got 'int4'",
        ),
        (("--max-drop", "2"), "--max-drop: expected less than 1, got 2.0"),
        (("--sample", "3"), "--sample: expected greater than or equal to 40, got 3"),
        (
            ("--sample", "150", "--max-drop", "0.001"),
            "Partition dt=2026-11-20 has 150 documents; choose one with about 9,000 documents",
        ),
        (("--out", ""), "--out: is empty"),
        (("--sample", "41"), "documents to"),
        (("--partition", "2026-01-01"), "The source has 2026-11-19, 2026-11-20"),
        (("--out", "{file}/models"), "{file}"),
    ],
)
def test_wrong_options_say_what_to_do_and_leave_nothing(
    job: Path, cli: Cli, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    options = tuple(option.replace("{file}", str(file)) for option in options)
    partition = () if "--partition" in options else ("--partition", DAY)
    result = cli("compress", job, *partition, *options)
    assert result.exit_code in (ExitCode.USAGE, ExitCode.STORAGE)
    assert said.replace("{file}", str(file)) in " ".join(result.stderr.split())
    assert published(job) == []


@pytest.mark.parametrize(
    ("compress", "said"),
    [
        ({"recipe": "auto", "ffn_share": 0.5}, "ffn_share: only with `recipe: prune`; this is 'auto'"),
        (
            {"references": {"english": "right"}},
            "model.compress.references: no task english; the job has translations, topics",
        ),
        ({"budget": 1}, "no such key; allowed: recipe, max_drop,"),
    ],
)
def test_settings_of_the_job_file_are_checked(
    write_job: WriteJob, cli: Cli, compress: dict[str, Any], said: str
) -> None:
    job = write_job(model={"compress": compress})
    result = cli("compress", job, "--partition", DAY, "--json")
    assert result.exit_code == ExitCode.USAGE
    assert said in " ".join(json.loads(result.stdout)["error"]["message"].split())
