"""The notebook of the answers: it runs, and is committed without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from docmill.pipelines.job_files import BUNDLED_FOLDER

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore_answers.ipynb"


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
def test_the_notebook_reads_the_answers_of_the_demo_job(
    tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled job with the fake engine, which answers in no time; the columns are the same."""
    monkeypatch.setenv("DOCMILL_DEMO_DOCUMENTS", "8")
    job = yaml.safe_load((BUNDLED_FOLDER / "demo.yaml").read_text())
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(job | {"engine": {"kind": "fake"}, "output": {"uri": "answers"}}))
    for day in ("2026-11-19", "2026-11-20"):
        assert cli("run", path, "--partition", day).exit_code == 0
    monkeypatch.setenv("DOCMILL_OUTPUT", str(tmp_path / "answers"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    shown = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    cost, by_task, dead_letters = shown[-3:]
    assert "2026-11-19" in cost
    assert "usd for 1,000" in cost
    assert by_task.startswith("shape: (6, 8)")  # two days, three tasks
    assert dead_letters.startswith("shape: (0, 4)")
    assert any("product question" in text or "billing" in text for text in shown)
