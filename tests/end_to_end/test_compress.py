"""A nightly job whose model is compressed on its own documents: the real vLLM, Dagster and the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from dagster import AssetKey, DagsterInstance, Definitions
from readme import Shell, told, told_block

from docmill.data import storage
from docmill.data.demo import LABELS
from docmill.engine.compression.checkpoint import linear_layers, load_model, save_model
from docmill.ops.compression import candidates
from docmill.ops.compression import compress_job as compressing
from docmill.ops.compression.candidates import Candidate, Material
from docmill.ops.compression.compress_job import compress_job
from docmill.ops.errors import NotWorthIt
from docmill.ops.job import Job
from docmill.ops.sources import ensure_source
from docmill.pipelines.assets import job_assets, job_run
from docmill.pipelines.job_files import load_job

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

NIGHTS = ("2026-11-20", "2026-11-21")
REFERENCES = {"translations": "reference_translation", "topics": "reference_label"}


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nightly")
    job: dict[str, Any] = {
        "name": "nightly",
        "source": {
            "uri": "documents",
            "start_date": NIGHTS[0],
            "generate": {"kind": "demo", "days": list(NIGHTS), "documents_per_day": 130, "seed": 77},
        },
        "output": {"uri": "answers"},
        "engine": {"kv_cache_gib": 0.25},
        "tasks": {
            "translations": {"kind": "translate"},
            "topics": {"kind": "classify", "labels": list(LABELS)},
        },
        "chunking": {"max_tokens": 128},
    }
    job |= yaml.safe_load(told_block("yaml", "compress:"))
    # Fewer documents than a user takes, and so a wider bound.
    job["model"]["compress"] |= {"max_drop": 0.08, "sample": 130, "references": REFERENCES}
    (folder / "nightly.yaml").write_text(yaml.safe_dump(job))
    return folder / "nightly.yaml"


@pytest.fixture(scope="module")
def nights(job_file: Path) -> dict[str, dict[str, Any]]:
    """Metadata of `compressed_model`, by night; both nights have been run in Dagster."""
    patch = pytest.MonkeyPatch()
    patch.setattr(compressing, "PAIRS", 1)  # the benchmark measures speed, and on more requests
    patch.setattr(candidates, "MOST_SEQUENCES", 24)
    job, found = load_job(str(job_file)), {}
    run = Definitions(assets=job_assets(job), jobs=[job_run(job)]).resolve_job_def(job.name)
    with DagsterInstance.ephemeral() as instance:
        for night in NIGHTS:
            assert run.execute_in_process(instance=instance, partition_key=night).success
            event = instance.get_latest_materialization_event(AssetKey(["nightly", "compressed_model"]))
            assert event is not None
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            found[night] = {name: value.value for name, value in metadata.items()}
            found[night]["tags"] = event.asset_materialization.tags
    patch.undo()
    return found


def report_of(job_file: Path, night: str) -> dict[str, Any]:
    return dict(json.loads((job_file.parent / f"answers/_docmill/dt={night}/report.json").read_text()))


def test_the_first_night_makes_the_model_and_the_second_uses_it(
    nights: dict[str, dict[str, Any]], job_file: Path
) -> None:
    first, second = (nights[night] for night in NIGHTS)
    assert (first["made_now"], second["made_now"]) == (True, False)
    assert first["checkpoint"] == second["checkpoint"]
    assert first["tags"]["dagster/data_version"] == second["tags"]["dagster/data_version"]
    assert 0.3 < first["size_ratio"] < 0.95
    assert first["most_drop"] <= 0.08
    reports = [report_of(job_file, night) for night in NIGHTS]
    assert reports[0]["model_fingerprint"] == reports[1]["model_fingerprint"]
    for report in reports:
        assert report["compressed"]["recipe"] == "auto"
        assert report["compressed"]["size_ratio"] == pytest.approx(first["size_ratio"], abs=1e-3)
        assert set(report["compressed"]["most_drops"]) == {"translations", "topics"}
        assert report["tasks"]["translations"]["counts"]["ok"] == 130


def test_what_answers_is_an_8_bit_checkpoint_and_it_answers_well(
    nights: dict[str, dict[str, Any]], job_file: Path
) -> None:
    folder = Path(nights[NIGHTS[0]]["checkpoint"])
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    rows = pl.read_parquet(job_file.parent / f"answers/topics/dt={NIGHTS[1]}/*.parquet")
    source = pl.read_parquet(job_file.parent / f"documents/dt={NIGHTS[1]}/*.parquet")
    both = rows.join(source.select("doc_id", "reference_label"), on="doc_id")
    assert both.height == 130
    assert (both["label"] == both["reference_label"]).mean() > 0.95


def test_the_page_shows_what_it_lost_and_the_precision_of_each_layer(
    nights: dict[str, dict[str, Any]], job_file: Path
) -> None:
    assert nights
    page = (job_file.parent / f"answers/_docmill/dt={NIGHTS[1]}/report.html").read_text()
    for words in (
        "The compressed model",
        "Precision by layer",
        "Most sensitive",
        "qkv_proj",
        "chrF",
        "accuracy",
    ):
        assert words in page


def test_the_command_finds_it_made_and_says_what_it_is(
    nights: dict[str, dict[str, Any]], job_file: Path, tmp_path: Path
) -> None:
    assert nights
    user = Shell(job_file.parent, tmp_path / "programs")
    (job_file.parent / "my-job.yaml").write_text(job_file.read_text())
    command = told("docmill compress my-job.yaml --partition 2026-11-20")
    shown = user.run(command)
    for words in ("reused     made on", "translations", "size       0.", nights[NIGHTS[0]]["checkpoint"]):
        assert words in shown
    printed = json.loads(user.run(f"{command} --json"))
    assert printed["made"] is False
    assert printed["size_ratio"] == pytest.approx(nights[NIGHTS[0]]["size_ratio"], abs=1e-3)


def test_a_broken_model_is_refused_and_leaves_nothing(job_file: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(job_file.read_text())
    values["source"]["uri"], values["output"]["uri"] = str(tmp_path / "documents"), str(tmp_path / "answers")
    values["source"]["generate"]["documents_per_day"] = 60
    values["model"]["compress"] |= {"recipe": "int8", "sample": 60, "max_drop": 0.15}
    job = Job.model_validate(values)
    ensure_source(job)

    def broken(material: Material) -> Iterator[Candidate]:
        model = load_model(material.source)
        next(layer for name, layer in linear_layers(model).items() if "down_proj" in name).weight.data.zero_()
        save_model(model, material.source, material.folder / "broken")
        yield Candidate("without the first feed-forward layer", material.folder / "broken")

    with pytest.raises(NotWorthIt, match=r"no compressed model is published.*without the first feed-forward"):
        compress_job(job, job.partition(NIGHTS[0]), make=broken)
    assert not storage.list_files(str(tmp_path / "answers"))
