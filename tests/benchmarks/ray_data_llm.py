"""What a user of Ray Data would write: a vLLM processor over the questions of a job, from Parquet to Parquet.

    python ray_data_llm.py ORDER

ORDER holds a pickled `RayOrder`. Its questions are Parquet files with docmill's prompts as token ids: Ray Data need not
clean or tokenise. Answers are written as token ids; decoding is spared too. Of each pass, what comes before the first
request reaches the loaded engine does not count. A program of its own, since Ray starts and ends with it; the last line
that it prints is a JSON object with its figures.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl

from docmill.engine.types import Completion, Request
from docmill.engine.vllm_requests import RequestTable

LOGICAL_CPUS = 4  # of Ray's own counting: the engine takes one, and reading and writing must not wait for it


@dataclass(frozen=True)
class RayOrder:
    """`batch_size` rows are handed to the engine's actor at once, `num_batches` such batches at the same time.

    `passes` are folders of questions, and where the answers go: a processor each, one after the other.
    """

    passes: list[tuple[str, str]]
    model_source: str
    engine_args: dict[str, Any]
    batch_size: int
    num_batches: int


def write_questions(folder: Path, files: Iterable[Iterable[Request]], table: RequestTable) -> None:
    """A file for each of `files`: the prompts that vLLM is given for its requests, in their order."""
    folder.mkdir(parents=True)
    for number, requests in enumerate(files):
        rows = [
            {
                "vllm_id": vllm_id,
                "tokenized_prompt": list(prompt),
                "max_tokens": params.max_tokens,
                "logprob_token_ids": params.logprob_token_ids,
            }
            for request in requests
            for vllm_id, prompt, params in table.admit(request)
        ]
        schema = {"logprob_token_ids": pl.List(pl.Int64)}
        pl.DataFrame(rows, schema_overrides=schema).write_parquet(folder / f"questions-{number:04}.parquet")


def read_completions(order: RayOrder, table: RequestTable) -> dict[str, Completion]:
    """By the request's id, of what `write_questions` has put into the same table."""
    found: dict[str, Completion] = {}
    for row in _answers(order).to_dicts():
        scores = json.loads(row["logprobs"] or "{}")
        first = {int(token_id): SimpleNamespace(logprob=logprob) for token_id, logprob in scores.items()}
        num_tokens = len(row["generated_tokens"])
        answer = SimpleNamespace(
            token_ids=row["generated_tokens"],
            finish_reason="length" if num_tokens == row["max_tokens"] else "stop",
            logprobs=[first] if first else None,
        )
        output: Any = SimpleNamespace(
            request_id=row["vllm_id"],
            outputs=[answer],
            prompt_token_ids=range(row["num_input_tokens"]),
            num_cached_tokens=0,  # Ray Data does not tell
        )
        completion = table.finish(output)
        if completion is not None:
            found[completion.request_id] = completion
    return found


def _answers(order: RayOrder) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(f"{folder}/*.parquet") for _, folder in order.passes)


def sampling_params(row: dict[str, Any]) -> dict[str, Any]:
    """Greedy, as the reference job asks; what Ray Data calls preprocessing."""
    params: dict[str, Any] = {"max_tokens": int(row["max_tokens"]), "temperature": 0.0, "detokenize": False}
    if row["logprob_token_ids"] is not None:
        params["logprob_token_ids"] = [int(token_id) for token_id in row["logprob_token_ids"]]
    return {"sampling_params": params, "tokenized_prompt": row["tokenized_prompt"]}


def answer_row(row: dict[str, Any]) -> dict[str, Any]:
    """What is written; what Ray Data calls postprocessing."""
    logprobs = row["logprobs"]
    scored = None
    if row["logprob_token_ids"] is not None:
        first = {token_id: found["logprob"] for token_id, found in logprobs[0].items() if found is not None}
        scored = json.dumps(first)
    return {
        "vllm_id": row["vllm_id"],
        "max_tokens": row["max_tokens"],
        "num_input_tokens": row["num_input_tokens"],
        "generated_tokens": row["generated_tokens"],
        "logprobs": scored,
        "asked_at": row["metrics"]["arrival_time"],  # at the engine; rows come here much later
    }


def run(order: RayOrder) -> dict[str, Any]:
    """The whole pipeline. Returns what it took."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(
        num_cpus=LOGICAL_CPUS,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    config = vLLMEngineProcessorConfig(
        model_source=order.model_source,
        # With vLLM's figures, which are Ray Data's default: they tell when the engine had loaded.
        engine_kwargs={name: value for name, value in order.engine_args.items() if name != "model"}
        | {"disable_log_stats": False},
        batch_size=order.batch_size,
        max_concurrent_batches=order.num_batches,
        concurrency=1,
        placement_group_config={"bundles": [{"CPU": 1}]},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
    processor = build_processor(config, preprocess=sampling_params, postprocess=answer_row)
    seconds = with_loading = 0.0
    for questions, folder in order.passes:
        started = time.time()
        processor(ray.data.read_parquet(questions)).write_parquet(folder)
        ended = time.time()
        first_asked: Any = pl.read_parquet(f"{folder}/*.parquet")["asked_at"].min()
        seconds += ended - first_asked
        with_loading += ended - started
    ray.shutdown()
    answers = _answers(order)
    return {
        "seconds": round(seconds, 2),
        "seconds_with_loading": round(with_loading, 2),
        "prompts": answers.height,
        "prompt_tokens": int(answers["num_input_tokens"].sum()),
        "output_tokens": int(answers["generated_tokens"].list.len().sum()),
    }


def main(order_file: str) -> None:
    """Where the process begins."""
    import ray_data_llm  # pickled under this name, not as __main__'s

    from docmill.engine.vllm_settings import prepare_environment

    prepare_environment(device="cpu", offline=True)
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # Ray Data takes vLLM with its own processes
    # Ray Data gives its workers one thread each where nothing is said, and vLLM's engine core with them.
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    # Its workers find this module, and what `make` has put on this path for Ray Data alone.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    order = pickle.loads(Path(order_file).read_bytes())
    assert isinstance(order, ray_data_llm.RayOrder)
    print(json.dumps(ray_data_llm.run(order)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
