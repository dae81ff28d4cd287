"""Two nights of the bundled demo job through Dagster on the real vLLM, and the notebook over their answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import polars as pl
import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
DAYS = ("2026-11-19", "2026-11-20")
DOCUMENTS = 40
TASKS = ("translations", "classifications", "summaries")

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DOCMILL_HOME after `dagster job execute -j demo` of two days; each run starts its own engine."""
    home = tmp_path_factory.mktemp("nights")
    (home / "dagster").mkdir()
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster" / "dagster.yaml")
    environment = os.environ | {
        "DOCMILL_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "DOCMILL_DEMO_DOCUMENTS": str(DOCUMENTS),
    }
    for day in DAYS:
        done = subprocess.run(
            [sys.executable, "-m", "dagster", "job", "execute", "-m", "docmill.pipelines.definitions", "-j", "demo",
             "--tags", f'{{"dagster/partition": "{day}"}}'],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
    return home


def test_dagster_holds_a_materialisation_a_task_and_night_with_the_figures_of_vllm(nights: Path) -> None:
    with DagsterInstance.from_config(str(nights / "dagster")) as instance:
        assert [run.status.value for run in instance.get_runs()] == ["SUCCESS", "SUCCESS"]
        for name in (*TASKS, "report"):
            records = instance.fetch_materializations(AssetKey(["demo", name]), limit=10).records
            assert sorted(record.partition_key or "" for record in records) == list(DAYS), name
            figures = records[0].asset_materialization
            assert figures is not None
            if name != "report":
                assert figures.metadata["ok"].value == DOCUMENTS
                assert figures.metadata["output_tokens"].value > 0


def test_the_models_translations_are_found_to_be_english(nights: Path) -> None:
    key = AssetCheckKey(AssetKey(["demo", "translations"]), "other_language_share")
    with DagsterInstance.from_config(str(nights / "dagster")) as instance:
        record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    evaluation = record.event.get_dagster_event().asset_check_evaluation_data
    assert evaluation.passed
    assert f"0 of {DOCUMENTS} answers that were looked at are not in English" in (
        evaluation.description or ""
    )


def test_the_answers_of_both_nights_are_the_models(nights: Path) -> None:
    """The demo corpus holds its own labels, and the model knows nearly all: no fake engine could."""
    answers = pl.read_parquet(
        f"{nights}/demo/answers/classifications/**/*.parquet", hive_partitioning=True
    ).filter(pl.col("dt").cast(pl.String).is_in(DAYS))
    assert answers.height == DOCUMENTS * len(DAYS)
    assert (answers["label"] == answers["reference_label"]).mean() >= 0.95  # 4 of 80; 99 % of many


def test_the_notebook_explores_real_answers(
    nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMILL_HOME", str(nights))  # its source and its output
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    path = ROOT / "notebooks" / "explore_answers.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = "\n".join(
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    )
    for day in DAYS:
        assert day in shown
    translations = pl.read_parquet(f"{nights}/demo/answers/translations/**/*.parquet")
    assert (translations["translation"] == translations["reference_translation"]).mean() > 0.8
