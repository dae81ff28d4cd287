"""What the README says of commands, keys and exit codes, held against the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from readme import README, told_block
from typer.main import get_command

from docmill.data.retries import DEFAULT_RETRY_SECONDS, RETRY_SECONDS
from docmill.ops.check_limits import CheckLimits
from docmill.ops.job import Budget, Job, LedgerConfig
from docmill.pipelines.cli import app
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job
from docmill.pipelines.stop_signals import STOP_SECONDS

WriteJob = Callable[..., Path]


def test_every_option_that_it_names_is_there() -> None:
    """Commands are executed, see tests/end_to_end/test_readme.py; of their options, some are only spoken of."""
    commands = get_command(app).commands.values()
    there = {option for command in commands for each in command.params for option in each.opts}
    named = set(re.findall(r"`(--[a-z0-9-]+)", README))
    assert named >= {"--fp8-kv", "--max-parallel"}
    assert named <= there


def test_every_exit_code_is_explained() -> None:
    explained = re.search(r"Exit codes of `docmill run`: (.*?)\.\s+Every", README, re.DOTALL)
    assert explained
    assert {int(number) for number in re.findall(r"(?:^|; ?|;\n)(\d+)\s", explained[1])} == {
        code.value for code in ExitCode
    }


def test_the_tables_keys_and_defaults_are_the_codes() -> None:
    rows = dict(re.findall(r"^\| `(ledger|budget|pool|checks)\.\*` \| (.*) \|$", README, re.MULTILINE))
    defaults = {name: float(value) for name, value in re.findall(r"`(\w+)` \((\d+)\)", rows["ledger"])}
    assert defaults == LedgerConfig().model_dump()
    limits = {name: float(value) for name, value in re.findall(r"`(\w+)` \(([\d.]+)\)", rows["checks"])}
    assert limits == CheckLimits().model_dump()
    assert set(re.findall(r"`(\w+)`", rows["budget"])) == set(Budget.model_fields)
    assert f"tries again for {DEFAULT_RETRY_SECONDS:.0f} s (`{RETRY_SECONDS}`)" in README
    assert f"ends within {STOP_SECONDS:.0f} s" in README
    assert set(rows) <= set(Job.model_fields)


@pytest.mark.parametrize("engine", ["fake", "vllm"])
def test_the_pools_line_fits_into_any_job(write_job: WriteJob, engine: str) -> None:
    values: dict[str, Any] = yaml.safe_load(told_block("yaml", "pool: {kind: ray"))
    job = load_job(str(write_job(**values, engine={"kind": engine})))
    assert (job.pool.kind, job.pool.workers) == ("ray", 2)
