"""Compressed models of the demo model, judged on documents that they were not made on: the real vLLM throughout.

    .venv/bin/python tests/benchmarks/compress.py [--documents 700] [--parts int8,auto,...]

int8, auto, prune   `docmill compress` with int8, auto (4 and 8 bits) and prune (a quarter of the feed-forward width,
             healed): what each task loses against the right answers, size, and tokens/s by turns with the source
trim         the same with trim, on a larger partition; then every document of that day, where all answers have to be
             equal, and of the next, by the source model and by the trimmed one
same_size    as many bits a weight, once in one format and once chosen by layer: loss on held-out documents
vocabulary   a model of 150,000 tokens (random weights) trimmed to what the corpus needs: bytes, and time of a step
guard        a model that was broken on purpose is refused, and nothing is left of it

Parts that are not asked for stay in the file as they are, each with its date.

The figure is the size of the INT8 model to the source's; it is met where every part did what the issue asks.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
from large_vocabulary import large_checkpoint
from measuring import parser, write_result

from docmill.data import storage
from docmill.data.demo import demo_documents
from docmill.data.layout import Layout
from docmill.engine.compression.checkpoint import linear_layers, load_model, save_model, weight_bytes
from docmill.engine.compression.formats import Format
from docmill.engine.config import ModelConfig
from docmill.ops.accuracy import DAY, accuracy_job
from docmill.ops.compression.candidates import Candidate, Material, some_of
from docmill.ops.compression.compress_job import compress_job
from docmill.ops.compression.halves import halves
from docmill.ops.compression.quality import Answered, compare
from docmill.ops.compression.report import CompressionReport, Side, TaskQuality
from docmill.ops.compression.runs import Runs, with_source
from docmill.ops.errors import NotWorthIt
from docmill.ops.job import Job
from docmill.ops.partition_job import run_partition
from docmill.ops.report import now
from docmill.ops.sources import ensure_source

SEED = 20261129  # the training never saw it
PARTS = ("int8", "auto", "prune", "trim", "same_size", "vocabulary", "guard")
SAME_SIZE_DOCUMENTS = 300  # 4 bits are slow on a CPU without 16-bit arithmetic
SHARES = {"auto": 2}  # times as many documents: several are tried, and each needs a tighter bound
TRIM_SHARE = 4  # times as many documents on a day: what a vocabulary needs is told by many
VOCABULARY_ROWS, VOCABULARY_PAIRS = 150_000, 3
REFERENCES = {
    "translations": "reference_translation",
    "classifications": "reference_label",
    "summaries": "reference_summary",
}
RECIPES: dict[str, dict[str, Any]] = {
    "int8": {"max_drop": 0.01},
    "auto": {"max_drop": 0.01, "formats": ["w4a16", "int8"]},
    "prune": {"max_drop": 0.02, "ffn_share": 0.25},
}


def job_with(folder: Path, documents: int, days: int = 1, **compress: Any) -> Job:
    """The demo's three tasks over fresh documents with known answers, so many on each day from `DAY` on."""
    plain = accuracy_job(folder, seed=SEED, num_documents=documents).model_dump(mode="json")
    plain["source"]["generate"]["days"] = [str(DAY + timedelta(days=day)) for day in range(days)]
    model = {"compress": {"sample": documents, "references": REFERENCES, **compress}}
    job = Job.model_validate({**plain, "model": model})
    ensure_source(job)
    return job


def recipe_part(recipe: str, folder: Path, documents: int) -> dict[str, Any]:
    """The recipe's report in short."""
    job = job_with(folder, documents * SHARES.get(recipe, 1), recipe=recipe, **RECIPES[recipe])
    try:
        report, refused = compress_job(job, job.partition(str(DAY)), tell=print).report, None
    except NotWorthIt as error:
        report, refused = error.report, str(error)
    return _in_short(report) | {"refused": refused}


def _in_short(report: CompressionReport) -> dict[str, Any]:
    trial = report.trial
    return {
        "max_drop": report.max_drop,
        "published": trial is not None,
        "held_out_documents": report.held_out_documents,
        "size_ratio": _rounded(report.size_ratio),
        "speed_ratios": [round(ratio, 3) for ratio in report.speed_ratios],
        "speed_ratio": _rounded(report.speed_ratio),
        "load_seconds": [report.before.load_seconds, report.after.load_seconds if report.after else []],
        "peak_memory_mib": [
            report.before.peak_memory_mib,
            report.after.peak_memory_mib if report.after else [],
        ],
        "trials": [
            trial.model_dump(exclude={"tasks"})
            | {"tasks": {name: _quality(task) for name, task in trial.tasks.items()}}
            for trial in report.trials
        ],
        "layers": [layer.model_dump() for layer in report.layers],
        "curve": [[round(point.bits_per_weight, 3), point.divergence] for point in report.curve],
        "seconds": round(report.seconds, 1),
    }


def _quality(task: TaskQuality) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in task}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def trim_part(folder: Path, documents: int) -> dict[str, Any]:
    """`docmill compress` with trim, then both models over every document of that day and of the next."""
    job = job_with(folder, TRIM_SHARE * documents, days=2, recipe="trim", max_drop=0.01, sample=2 * documents)
    made = compress_job(job, job.partition(str(DAY)), tell=print)
    days = {}
    for day in (DAY, DAY + timedelta(days=1)):
        partition = job.partition(str(day))
        rows: list[dict[str, dict[str, Answered]]] = []
        for name, model in (("source", job.model.uncompressed), ("trimmed", job.model)):
            output = job.output.model_copy(update={"uri": str(folder / name)})
            run_partition(job.model_copy(update={"model": model, "output": output}), partition)
            rows.append({task: _answers(job, Layout(output.uri, partition), task) for task in job.tasks})
        days[str(day)] = {
            task: _quality(compare(job.tasks[task], rows[0][task], rows[1][task], has_references=True))
            | {"differ": sum(row != rows[1][task].get(doc_id) for doc_id, row in rows[0][task].items())}
            for task in job.tasks
        }
    return _in_short(made.report) | {"days": days}


def _answers(job: Job, layout: Layout, task: str) -> dict[str, Answered]:
    rows = pl.read_parquet(f"{layout.answers_folder(task)}/*.parquet")
    columns = rows.select("doc_id", job.tasks[task].columns[0].name, REFERENCES[task])
    return {doc_id: Answered(answer, reference) for doc_id, answer, reference in columns.iter_rows()}


def same_size(folder: Path, documents: int) -> list[dict[str, Any]]:
    """At the bits a weight that one format takes everywhere: that format, and the choice by layer among all."""
    from docmill.engine.compression.precision import choose, foretell
    from docmill.engine.compression.quantise import quantise
    from docmill.engine.compression.sensitivity import measure_sensitivity
    from docmill.ops.compression.compress_job import local_source

    formats: tuple[Format, ...] = ("int8", "w4a16")
    job = job_with(folder, min(documents, SAME_SIZE_DOCUMENTS), recipe="int8", max_drop=0.05)
    source = local_source(job.model)
    config = job.model.compress
    assert config is not None
    plain = job.model_copy(update={"model": job.model.uncompressed})
    rows: list[dict[str, Any]] = []
    with halves(plain, job.partition(str(DAY)), config) as found:
        runs = Runs(job, found, lambda progress: None, None)
        sequences, held_out = (
            some_of(runs.record(half)[1].sequences) for half in (found.calibration, found.held_out)
        )
        right = runs.answers_of(job.model.uncompressed, Side(num_bytes=0))
        sensitivity = measure_sensitivity(source, sequences, formats, smooth=True)
        bits = {form: foretell(sensitivity, dict.fromkeys(sensitivity.groups, form)).bits for form in formats}
        middle = (bits["int8"] + bits["w4a16"]) / 2
        names = list(sensitivity.groups)
        choices = {
            "int8 everywhere": dict.fromkeys(names, "int8"),
            "by layer, as many bits as int8": choose(sensitivity, ("w4a16", "int8"), max_bits=bits["int8"]),
            "half of the bits between: first layers in int8": _first(names, sensitivity, middle),
            "half of the bits between: by layer": choose(sensitivity, ("w4a16", "int8"), max_bits=middle),
            "w4a16 everywhere": dict.fromkeys(names, "w4a16"),
        }
        for name, precisions in choices.items():
            out = folder / "same_size"
            made = quantise(source, out, precisions, sequences, smooth=True, held_out=held_out)
            side = Side(num_bytes=weight_bytes(out))
            answers = runs.answers_of(with_source(ModelConfig(), out), side)
            rows.append(
                {
                    "bytes": side.num_bytes,
                    "tokens_per_second": side.tokens_per_second,
                    "choice": name,
                    "bits_per_weight": round(made.bits, 3),
                    "divergence": made.divergence,
                    "held_out_divergence": made.held_out_divergence,
                    "divergence_foretold": foretell(sensitivity, precisions).divergence,
                    "tasks": {
                        task: _quality(quality) for task, quality in runs.qualities(right, answers).items()
                    },
                }
            )
            print(rows[-1], flush=True)
            shutil.rmtree(out)
    return rows


def _first(names: list[str], sensitivity: Any, most_bits: float) -> dict[str, Format | None]:
    """What one does without measuring: 8 bits in the first groups, 4 in the rest, within so many bits."""
    from docmill.engine.compression.precision import foretell

    found: dict[str, Format | None] = dict.fromkeys(names, "w4a16")
    for name in names:
        more = found | {name: "int8"}
        if foretell(sensitivity, more).bits > most_bits:
            break
        found = more  # type: ignore[assignment]
    return found


def guard(folder: Path, documents: int) -> dict[str, Any]:
    """One feed-forward layer of four gives nothing any more."""
    job = job_with(folder, min(documents, SAME_SIZE_DOCUMENTS), recipe="int8", max_drop=0.05)

    def broken(material: Material) -> Iterator[Candidate]:
        model = load_model(material.source)
        layer = next(layer for name, layer in linear_layers(model).items() if name.endswith("down_proj"))
        layer.weight.data.zero_()
        save_model(model, material.source, material.folder / "broken")
        yield Candidate("without the first feed-forward layer", material.folder / "broken")

    try:
        compress_job(job, job.partition(str(DAY)), make=broken)
    except NotWorthIt as error:
        config = job.model.compress
        assert config is not None
        assert config.out is not None
        trial = error.report.trials[0]
        return {
            "refused": True,
            "left_behind": len(storage.list_files(config.out)),
            "tasks": {name: _quality(task) for name, task in trial.tasks.items()},
            "message": str(error),
        }
    return {"refused": False}


def vocabulary(folder: Path, documents: int) -> dict[str, Any]:
    """A step of 64 sequences, written one token each, before and after; the head is most of such a model."""
    from docmill.engine.compression.trim import needed_tokens, trim
    from docmill.engine.tokenizer import ModelTokenizer

    large, trimmed = folder / "large", folder / "large_trimmed"
    large_checkpoint(large, rows=VOCABULARY_ROWS, hidden_size=512)
    texts = [document.text for document in demo_documents(seed=SEED, num_documents=documents)]
    ids = ModelTokenizer(ModelConfig(source=str(large))).encode_data(texts)
    made = trim(
        large, trimmed, needed_tokens(large, Counter(chain.from_iterable(ids))), tell=lambda what, share: None
    )
    program = Path(__file__).with_name("steps_of_model.py")
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(VOCABULARY_PAIRS):
        for name, model in (("before", large), ("after", trimmed)):
            printed = subprocess.run(
                [sys.executable, str(program), str(model)], check=True, capture_output=True, text=True
            ).stdout
            seconds[name].append(json.loads(printed.splitlines()[-1])["seconds_per_step"])
    ratios = [after / before for before, after in zip(seconds["before"], seconds["after"], strict=True)]
    return {
        "rows": [made.num_rows_before, made.num_rows_after],
        "bytes_of_rows": [made.num_bytes_before, made.num_bytes_after],
        "bytes_of_weights": [weight_bytes(large), weight_bytes(trimmed)],
        "seconds_per_step": seconds,
        "step_time_ratios": [round(ratio, 4) for ratio in ratios],
        "step_time_ratio": round(statistics.median(ratios), 4),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=700)
    options.add_argument("--parts", default=",".join(PARTS))
    arguments = options.parse_args()
    wanted = arguments.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        options.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    does = {recipe: partial(recipe_part, recipe) for recipe in RECIPES} | {
        "trim": trim_part,
        "same_size": same_size,
        "vocabulary": vocabulary,
        "guard": guard,
    }
    written = arguments.out / "compress.json"
    found: dict[str, Any] = json.loads(written.read_text())["parts"] if written.exists() else {}
    for part in wanted:
        with tempfile.TemporaryDirectory(prefix="docmill-compress-bench-") as folder:
            figures = does[part](Path(folder), arguments.documents)
        found[part] = {"date": now().isoformat(timespec="seconds"), "figures": figures}
        print(part, json.dumps(found[part]), flush=True)
        write_result(  # after each part: should a later one fail, these figures stay
            "compress",
            {"documents": arguments.documents, "seed": SEED, "references": REFERENCES, "parts": found},
            ratio=(found["int8"]["figures"]["size_ratio"] or 1.0) if "int8" in found else 1.0,
            met=set(found) == set(PARTS) and _met({name: found[name]["figures"] for name in PARTS}),
            out=arguments.out,
        )


def _met(found: Mapping[str, Any]) -> bool:
    """Whether each part did what it should; `same_size` and `vocabulary` have no bar."""
    days = found["trim"]["days"]
    return (
        all(found[recipe]["published"] for recipe in (*RECIPES, "trim"))
        and not any(task["differ"] for task in days[str(DAY)].values())
        and all(task["drop"] <= found["trim"]["max_drop"] for day in days.values() for task in day.values())
        and found["guard"]["refused"]
        and not found["guard"]["left_behind"]
    )


if __name__ == "__main__":
    main()
