"""A job that asks for 8 bits and our kernels, by its YAML: the report says what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

JOB = """
name: eight_bits
source: {uri: documents, partition_key: null, id_column: id}
output: {uri: answers}
engine: {quantization: int8, kernels: [rms_norm_quant, silu_mul_quant], kv_cache_gib: 0.25}
tasks: {english: {kind: translate}}
"""


def test_the_report_says_how_often_each_kernel_ran(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "documents").mkdir()
    texts = ["Die Lieferung kam zu spät.", "Rechnung 4711 ist falsch.", "产品很好。"]
    pl.DataFrame({"id": [1, 2, 3], "text": texts}).write_parquet(tmp_path / "documents" / "a.parquet")
    docmill = Path(sys.executable).with_name("docmill")
    done = subprocess.run(
        [docmill, "run", "job.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=280,
        env=os.environ | {"DOCMILL_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert pl.read_parquet(tmp_path / "answers/english/a.parquet")["status"].to_list() == ["ok"] * 3

    kernels = json.loads((tmp_path / "answers/_docmill/all/report.json").read_text())["kernels"]
    norms, activations = kernels["rms_norm_quant"], kernels["silu_mul_quant"]
    assert (norms["num_places"], activations["num_places"]) == (8, 4)
    assert norms["num_calls"] == 2 * activations["num_calls"] > 0
    for op, kernel in kernels.items():
        places, calls = kernel["num_places"], kernel["num_calls"]
        assert f"kernels    {op} in {places} layers, {calls:,} calls (native)" in done.stdout
