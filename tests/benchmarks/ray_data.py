"""The reference job by docmill and by Ray Data LLM, each from Parquet to Parquet.

    .venv/bin/python tests/benchmarks/ray_data.py [--documents 600] [--repeats 5]

Both have the same vLLM, threads, KV cache and batch limits. Ray Data gets more than it would have: prompts made
beforehand, tasks of a document side by side, and the number and size of its batches that were fastest over the first
shards (`ray_data_llm.py` says more). Ray needs its own processes, which cannot be stopped and go on by turns, so the
two run one after the other, ABBA. The ratio is the median of the pairs' Ray Data / docmill in seconds, each from
when the engine had loaded. Answers are compared row by row, see `fusion.py`.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

from comparison import DOCMILL_RUN, FIGURES, Comparison, answers_hold, compare
from measuring import parser, spread, write_result
from ray_data_llm import RayOrder, read_completions, write_questions
from reference_job import DAY, Question
from turns import run_by_turns

from docmill.engine.model_files import resolve_model
from docmill.engine.vllm_requests import RequestTable
from docmill.engine.vllm_settings import engine_args

TARGET = 1.5
MAX_NUM_SEQS = 256  # what is best for `LLM.generate` with these documents, see results/raw.json
BATCHES = (
    (16, 32),
    (32, 16),
    (64, 8),
    (128, 8),
)  # rows of a batch, batches at once: its documents want >= 256 rows
SHARDS_TO_TUNE_ON = 3
PACKAGES = (
    Path(__file__).parents[2] / "build" / "ray-data"
)  # what Ray Data needs beside the environment, see Makefile
PROGRAM = Path(__file__).with_name("ray_data_llm.py")


class RayComparison(Comparison):
    """The same corpus and questions, asked by Ray Data."""

    def __init__(self, folder: Path, *, num_documents: int):
        super().__init__(folder, num_documents=num_documents, duplicate_share=0.0)
        self.engine = self.engine.model_copy(update={"max_num_seqs": MAX_NUM_SEQS})
        self.batches = BATCHES[0]

    def ray(self, asked: list[Question], name: str) -> tuple[dict[str, Any], RequestTable]:
        """Figures of one run, and the table that its answers are read with."""
        table = RequestTable(max_model_len=self.info.max_model_len, end_token_ids=[])
        shards = groupby(asked, key=lambda question: question.shard)
        files = ([question.request for question in shard] for _, shard in shards)
        write_questions(self.folder / f"{name}-questions", files, table)
        batch_size, num_batches = self.batches
        order = RayOrder(
            questions=str(self.folder / f"{name}-questions"),
            answers=str(self.folder / f"{name}-answers"),
            model_source=resolve_model(self.job(name).model),
            engine_args=engine_args(
                self.engine, self.job(name).model, source=resolve_model(self.job(name).model), device="cpu"
            ),
            batch_size=batch_size,
            num_batches=num_batches,
        )
        file = self.folder / f"{name}.order"
        file.write_bytes(pickle.dumps(order))
        ran = subprocess.run(
            [sys.executable, str(PROGRAM), str(file)],
            stdout=subprocess.PIPE,
            check=True,
            env=os.environ | {"PYTHONPATH": str(PACKAGES)},
        )
        figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        print({"way": "ray_data", "batches": self.batches} | figures, flush=True)
        return figures, table

    def tune_ray(self) -> list[dict[str, Any]]:
        """Seconds over the first shards by the size and number of batches; the best is what it gets."""
        shards = sorted({question.shard for question in self.questions})[:SHARDS_TO_TUNE_ON]
        few = [question for question in self.questions if question.shard in shards]
        tuned = []
        for self.batches in BATCHES:
            figures, _ = self.ray(few, f"tune-{self.batches[0]}")
            tuned.append({"batch_size": self.batches[0], "num_batches": self.batches[1]} | figures)
        best = min(tuned, key=lambda tried: tried["seconds"])
        self.batches = (best["batch_size"], best["num_batches"])
        return tuned

    def docmill(self, name: str) -> dict[str, Any]:
        """Figures of one run."""
        job = self.job(name)
        ran = run_by_turns({"docmill": [str(DOCMILL_RUN), job.model_dump_json(), str(DAY)]})["docmill"]
        figures = {"seconds": ran["seconds"]} | {figure: ran[figure] for figure in FIGURES}
        print({"way": "docmill"} | figures, flush=True)
        return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=600)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    if arguments.repeats < 2:
        raise SystemExit("--repeats: at least 2, or there is no spread to tell")
    runs: list[dict[str, Any]] = []
    ratios: list[float] = []
    answers: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="docmill-ray-data-") as name:
        comparison = RayComparison(Path(name), num_documents=arguments.documents)
        print(comparison.corpus, flush=True)
        tuned = comparison.tune_ray()
        for repeat in range(arguments.repeats):
            first = comparison.docmill(f"docmill-{repeat}") if repeat % 2 else None
            by_ray, table = comparison.ray(comparison.questions, f"ray-{repeat}")
            by_docmill = first or comparison.docmill(f"docmill-{repeat}")
            completions = read_completions(comparison.folder / f"ray-{repeat}-answers", table)
            answers.append(compare(comparison.questions, completions, comparison.job(f"docmill-{repeat}")))
            runs += [{"way": "docmill"} | by_docmill, {"way": "ray_data"} | by_ray]
            ratios.append(by_ray["seconds"] / by_docmill["seconds"])
            print(f"repeat {repeat}: {ratios[-1]:.3f}; {answers[-1]}", flush=True)
        measured = {
            "corpus": comparison.corpus,
            "max_num_seqs": MAX_NUM_SEQS,
            "tuned": tuned,
            "batch_size": comparison.batches[0],
            "num_batches": comparison.batches[1],
            "ratios": spread(ratios),
            "answers": answers,
            "runs": runs,
            "target": TARGET,
        }
    ratio = measured["ratios"]["median"]
    write_result(
        "ray_data",
        measured,
        ratio=ratio,
        met=ratio >= TARGET and answers_hold(measured),
        out=arguments.out,
        device=comparison.info.device,
        engine_versions=comparison.info.versions,
    )


if __name__ == "__main__":
    main()
