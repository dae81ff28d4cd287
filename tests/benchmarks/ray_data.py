"""The reference job by docmill and by Ray Data LLM, each from Parquet to Parquet.

    make bench NAME=ray_data [BENCH_ARGS="--documents 500 --repeats 5"]

Ray Data LLM has a processor for each task, which is how its documentation asks one question about each row. Both have
the same vLLM, threads, KV cache and batch limits, and Ray Data is spared the work on texts (`ray_data_llm.py`); the
number and size of its batches are those that were fastest over some shards. The ratio is the median of the pairs'
Ray Data / docmill in seconds, each from when the engine had loaded: that Ray Data loads one a task does not count.

`side_by_side` is one processor over all questions, in docmill's order: what somebody could make of Ray Data who knows
that a document's prefix is computed once then, and has the questions rendered and ordered already. Its ratio is told
beside the other.

Ray has processes that cannot be stopped and go on by turns, so the ways run one after the other, ABBA. Answers are
compared row by row, see `fusion.py`.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from comparison import DOCMILL_RUN, FIGURES, Comparison, answers_hold, compare, per_task
from measuring import parser, spread, write_result
from ray_data_llm import RayOrder, read_completions, write_questions
from reference_job import DAY, Question
from turns import run_by_turns

from docmill.engine.model_files import resolve_model
from docmill.engine.types import Completion
from docmill.engine.vllm_requests import RequestTable
from docmill.engine.vllm_settings import engine_args
from docmill.ops.job import Job

TARGET = 1.5
MAX_NUM_SEQS = 256  # what is best for `LLM.generate` with these documents, see results/raw.json
# Rows of a batch, and batches at once: Ray Data warns where they are not MAX_NUM_SEQS together.
BATCHES = ((16, 32), (32, 16), (64, 8))
SHARDS_TO_TUNE_ON = 3
TASK_TO_TUNE_ON = "summaries"
SIDE_BY_SIDE_REPEATS = 2
PROGRAM = Path(__file__).with_name("ray_data_llm.py")
# What Ray Data needs beside the environment, see the Makefile.
PACKAGES = Path(__file__).parents[2] / "build" / "ray-data"


class RayComparison(Comparison):
    """The same corpus and questions, asked by Ray Data."""

    def __init__(self, folder: Path, *, num_documents: int):
        super().__init__(folder, num_documents=num_documents, duplicate_share=0.0)
        self.engine = self.engine.model_copy(update={"max_num_seqs": MAX_NUM_SEQS})
        self.batches = BATCHES[0]

    def ray(
        self, way: str, passes: Sequence[list[Question]], name: str
    ) -> tuple[dict[str, Any], dict[str, Completion]]:
        """Figures and answers of one run."""
        table = RequestTable(max_model_len=self.info.max_model_len, end_token_ids=[])
        folders = []
        for number, asked in enumerate(passes):
            folder = self.folder / name / str(number)
            shards = groupby(asked, key=lambda question: question.shard)
            files = ([question.request for question in shard] for _, shard in shards)
            write_questions(folder / "questions", files, table)
            folders.append((str(folder / "questions"), str(folder / "answers")))
        model, (batch_size, num_batches) = self.job(name).model, self.batches
        source = resolve_model(model)
        order = RayOrder(
            passes=folders,
            model_source=source,
            engine_args=engine_args(self.engine, model, source=source, device="cpu"),
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
        figures: dict[str, Any] = {"way": way} | json.loads(ran.stdout.splitlines()[-1])
        print(figures, flush=True)
        return figures, read_completions(order, table)

    def tune_ray(self) -> list[dict[str, Any]]:
        """Seconds over some questions by the size and number of batches; the best is what Ray Data gets."""
        shards = sorted({question.shard for question in self.questions})[:SHARDS_TO_TUNE_ON]
        few = [
            question
            for question in self.questions
            if question.shard in shards and question.task == TASK_TO_TUNE_ON
        ]
        tuned = []
        for self.batches in BATCHES:
            figures, _ = self.ray(f"batches {self.batches}", [few], f"tune-{self.batches[0]}")
            tuned.append({"batch_size": self.batches[0], "num_batches": self.batches[1]} | figures)
        best = min(tuned, key=lambda tried: tried["seconds"])
        self.batches = (best["batch_size"], best["num_batches"])
        return tuned

    def docmill(self, job: Job) -> dict[str, Any]:
        """Figures of one run."""
        ran = run_by_turns({"docmill": [str(DOCMILL_RUN), job.model_dump_json(), str(DAY)]})["docmill"]
        figures = {"way": "docmill", "seconds": round(ran["seconds"], 2)}
        figures |= {figure: ran[figure] for figure in FIGURES}
        print(figures, flush=True)
        return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=500)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    if arguments.repeats < 2:
        raise SystemExit("--repeats: at least 2, or there is no spread to tell")
    runs: list[dict[str, Any]] = []
    ratios: list[float] = []
    side_by_side: list[float] = []
    answers: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="docmill-ray-data-") as name:
        comparison = RayComparison(Path(name), num_documents=arguments.documents)
        print(comparison.corpus, flush=True)
        tuned = comparison.tune_ray()
        tasks = per_task(comparison.questions)
        for repeat in range(arguments.repeats):
            job = comparison.job(f"docmill-{repeat}")
            first = comparison.docmill(job) if repeat % 2 else None
            by_ray, completions = comparison.ray("ray_data", tasks, f"ray-{repeat}")
            by_docmill = first or comparison.docmill(job)
            runs += [by_docmill, by_ray]
            ratios.append(by_ray["seconds"] / by_docmill["seconds"])
            answers.append(compare(comparison.questions, completions, job))
            print(f"repeat {repeat}: {ratios[-1]:.3f}; {answers[-1]}", flush=True)
            if repeat < SIDE_BY_SIDE_REPEATS:
                by_ray, completions = comparison.ray("side_by_side", [comparison.questions], f"side-{repeat}")
                runs.append(by_ray)
                side_by_side.append(by_ray["seconds"] / by_docmill["seconds"])
                answers.append(compare(comparison.questions, completions, job))
                print(f"side by side: {side_by_side[-1]:.3f}; {answers[-1]}", flush=True)
    measured = {
        "corpus": comparison.corpus,
        "max_num_seqs": MAX_NUM_SEQS,
        "tuned": tuned,
        "batch_size": comparison.batches[0],
        "num_batches": comparison.batches[1],
        "ratios": spread(ratios),
        "ratios_side_by_side": [round(ratio, 4) for ratio in side_by_side],
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
        engine_versions=comparison.info.versions | {"ray": version("ray")},
    )


if __name__ == "__main__":
    main()
