"""What a user would write instead of docmill: calls of `LLM.generate`, one after the other. Only they are timed.

    python plain_vllm.py ORDER.pickle RESULT.pickle

ORDER holds a `PlainOrder`; RESULT gets a `PlainResult`. Prompts come as token ids, made beforehand, and nothing is
written: reading, cleaning, tokenising, decoding and storing are spared. A program of its own, so that nothing of an
earlier run is left.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docmill.data.records import NO_USAGE, Usage
from docmill.engine.types import Completion, Request


@dataclass(frozen=True)
class PlainOrder:
    """`engine_args` are vLLM's; each of the `calls` is one `LLM.generate` over these requests."""

    engine_args: dict[str, Any]
    calls: list[list[Request]]


@dataclass
class PlainResult:
    """Completions by the request's id, and what they took."""

    seconds: float = 0.0
    num_steps: int = 0
    usage: Usage = NO_USAGE
    completions: dict[str, Completion] = field(default_factory=dict)


def run_plain(order: PlainOrder) -> PlainResult:
    """The calls, in a process that loads the model for them."""
    with tempfile.TemporaryDirectory(prefix="docmill-plain-") as name:
        asked, answered = Path(name, "order.pickle"), Path(name, "result.pickle")
        asked.write_bytes(pickle.dumps(order))
        subprocess.run([sys.executable, __file__, str(asked), str(answered)], check=True)
        result: PlainResult = pickle.loads(answered.read_bytes())
        return result


def generate(order: PlainOrder) -> PlainResult:
    """The calls, in this process."""
    from vllm import LLM

    from docmill.engine.vllm_engine import end_token_ids
    from docmill.engine.vllm_requests import RequestTable

    llm = LLM(**order.engine_args)
    table = RequestTable(
        max_model_len=llm.llm_engine.model_config.max_model_len,
        end_token_ids=end_token_ids(llm.llm_engine),
    )
    calls = [[part for request in requests for part in table.admit(request)] for requests in order.calls]
    result, step = PlainResult(), llm.llm_engine.step

    def counted_step() -> Any:
        result.num_steps += 1
        return step()

    llm.llm_engine.step = counted_step  # type: ignore[method-assign]
    outputs = []
    started = time.perf_counter()
    for parts in calls:
        prompts: list[Any] = [{"prompt_token_ids": prompt} for _, prompt, _ in parts]
        outputs.append(llm.generate(prompts, [params for _, _, params in parts], use_tqdm=False))
    result.seconds = time.perf_counter() - started
    for parts, answered in zip(calls, outputs, strict=True):
        for (vllm_id, _, _), output in zip(parts, answered, strict=True):
            output.request_id = vllm_id  # LLM counts on its own
            completion = table.finish(output)
            if completion is not None:
                result.completions[completion.request_id] = completion
                result.usage += completion.usage
    return result


def main(order_file: str, result_file: str) -> None:
    """Where the process begins."""
    from plain_vllm import PlainOrder, generate  # pickled under this name, not as __main__'s

    from docmill.engine.vllm_settings import prepare_environment

    # The engine in this process: with vLLM's own processes around it, `LLM` hung on a machine of two cores.
    prepare_environment(device="cpu", offline=True)
    order = pickle.loads(Path(order_file).read_bytes())
    assert isinstance(order, PlainOrder)
    Path(result_file).write_bytes(pickle.dumps(generate(order)))


if __name__ == "__main__":
    main(*sys.argv[1:])
