"""What Dagster loads, as Dagster loads it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, AssetsDefinition, DagsterInstance, materialize
from dagster._core.instance.config import PoolGranularity

from docmill.pipelines.definitions import docmill_definitions

ROOT = Path(__file__).parents[2]

WriteJob = Callable[..., Path]


def dagster(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:docmill", "-m", "dagster", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_dagster_finds_and_validates_the_definitions_from_the_repository() -> None:
    result = dagster("definitions", "validate", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "BetaWarning" not in result.stderr


@pytest.mark.slow
def test_the_repository_holds_every_job(tmp_path: Path) -> None:
    result = dagster("job", "list", "-m", "docmill.pipelines.definitions", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Job: demo" in result.stdout
    assert "Job: distributions" in result.stdout


def test_a_broken_job_file_is_shown_and_hides_no_other(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job("good")
    path = write_job("my-broken", text="name: x\nsorce: {}")
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    definitions = docmill_definitions()
    graph = definitions.resolve_asset_graph()
    assert {key.path[0] for key in graph.get_all_asset_keys()} == {
        "demo",
        "distributions",
        "tickets",
        "broken_job_files",
    }
    stand_in = graph.get(
        next(key for key in graph.get_all_asset_keys() if key.path[-1].startswith("my_broken_"))
    )
    assert "did you mean 'source'?" in (stand_in.description or "")


def test_materialising_the_stand_in_fails_with_the_problems(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_job("broken", text="name: x")
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    [stand_in] = [
        asset
        for asset in docmill_definitions().assets or []
        if isinstance(asset, AssetsDefinition) and asset.keys == {AssetKey(["broken_job_files", "broken"])}
    ]
    with DagsterInstance.ephemeral() as instance:
        result = materialize([stand_in], instance=instance, raise_on_error=False)
    assert not result.success
    [event] = result.get_step_failure_events()
    assert "source: is missing" in str(event.step_failure_data.user_failure_data.description)


def test_dagsters_settings_are_valid_and_let_one_engine_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with DagsterInstance.get() as instance:
        pools = instance.get_concurrency_config().pool_config
        assert (pools.default_pool_limit, pools.pool_granularity) == (1, PoolGranularity.RUN)
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert str(tmp_path) in str(instance.event_log_storage._base_dir)


def test_the_settings_in_the_package_are_those_of_the_repository() -> None:
    packaged = ROOT / "pipelines" / "dagster.yaml"
    assert packaged.resolve() == ROOT / "dagster.yaml"
    assert yaml.safe_load(packaged.read_text())["telemetry"] == {"enabled": False}


def test_broken_files_of_any_name_stand_beside_each_other(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-b", "a_b", "übersetzung"):
        path = write_job(name, text="days: 2026-02-30")
    monkeypatch.setenv("DOCMILL_JOBS", str(path.parent))
    names = {
        key.path[1]
        for key in docmill_definitions().resolve_asset_graph().get_all_asset_keys()
        if key.path[0] == "broken_job_files"
    }
    assert len(names) == 3
    assert "a_b" in names
