"""What a user would write instead of docmill: calls of `LLM.generate`, one after the other. Only they are timed.

    python plain_vllm.py ORDER ORDER.answers

ORDER holds a pickled `PlainOrder`. Prompts come as token ids, made beforehand, and answers are written when the clock
has stopped: reading, cleaning, tokenising, decoding and storing are spared. A program of its own, so that nothing of
an earlier run is left; timed by turns, see `turns.py`.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turns import timed

from docmill.engine.types import Completion, Request


@dataclass(frozen=True)
class PlainOrder:
    """`engine_args` are vLLM's; each of the `calls` is one `LLM.generate` over these requests."""

    engine_args: dict[str, Any]
    calls: list[list[Request]]


def write_order(path: Path, order: PlainOrder) -> list[str]:
    """Returns the command for `turns.run_by_turns`; `PATH.answers` will hold completions by the request's id."""
    path.write_bytes(pickle.dumps(order))
    return [__file__, str(path), f"{path}.answers"]


def read_answers(path: Path) -> dict[str, Completion]:
    """Of the program that was given the order in `path`."""
    answers: dict[str, Completion] = pickle.loads(Path(f"{path}.answers").read_bytes())
    return answers


class PlainVllm:
    """The loaded model, and the calls in vLLM's own words."""

    def __init__(self, order: PlainOrder):
        from vllm import LLM

        from docmill.engine.vllm_engine import end_token_ids
        from docmill.engine.vllm_requests import RequestTable

        self._llm = LLM(**order.engine_args)
        engine = self._llm.llm_engine
        self._table = RequestTable(
            max_model_len=engine.model_config.max_model_len, end_token_ids=end_token_ids(engine)
        )
        self._calls = [
            [part for request in requests for part in self._table.admit(request)] for requests in order.calls
        ]
        self._outputs: list[list[Any]] = []
        self._num_steps, self._step = 0, engine.step
        engine.step = self._counted_step  # type: ignore[method-assign]

    def generate(self) -> dict[str, Any]:
        """The calls. Returns what they took."""
        for parts in self._calls:
            prompts: list[Any] = [{"prompt_token_ids": prompt} for _, prompt, _ in parts]
            params = [params for _, _, params in parts]
            self._outputs.append(self._llm.generate(prompts, params, use_tqdm=False))
        outputs = [output for answered in self._outputs for output in answered]
        prompt = sum(len(output.prompt_token_ids) for output in outputs)
        cached = sum(output.num_cached_tokens or 0 for output in outputs)
        return {
            "engine_steps": self._num_steps,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "computed_prompt_tokens": prompt - cached,
            "output_tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        }

    def completions(self) -> dict[str, Completion]:
        """By the request's id."""
        found: dict[str, Completion] = {}
        for parts, answered in zip(self._calls, self._outputs, strict=True):
            for (vllm_id, _, _), output in zip(parts, answered, strict=True):
                output.request_id = vllm_id  # LLM counts on its own
                completion = self._table.finish(output)
                if completion is not None:
                    found[completion.request_id] = completion
        return found

    def _counted_step(self) -> Any:
        self._num_steps += 1
        return self._step()


def main(order_file: str, answers_file: str) -> None:
    """Where the process begins."""
    from plain_vllm import PlainOrder  # pickled under this name, not as __main__'s

    from docmill.engine.vllm_settings import prepare_environment

    # The engine in this process: with vLLM's own processes around it, `LLM` hung on a machine of two cores.
    prepare_environment(device="cpu", offline=True)
    order = pickle.loads(Path(order_file).read_bytes())
    assert isinstance(order, PlainOrder)
    plain = PlainVllm(order)
    timed(plain.generate)
    Path(answers_file).write_bytes(pickle.dumps(plain.completions()))


if __name__ == "__main__":
    main(*sys.argv[1:])
