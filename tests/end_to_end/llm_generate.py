"""What a user would write instead of docmill: `LLM.generate` over the prompts of one task, then of the next, greedy.

    python llm_generate.py PROMPTS.json ANSWERS.json

PROMPTS holds {task: {"max_tokens": [...], "prompts": [[token ids], ...]}}; ANSWERS gets {task: [[token ids], ...]}.
A program of its own: an engine in a process that has another one would share more than the machine with it.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}


def main(prompts_file: str, answers_file: str, model: str) -> None:
    """Answer every task's prompts with one call each."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        kv_cache_memory_bytes=1 << 30,
        max_num_seqs=64,
        enable_prefix_caching=True,
    )
    answers = {}
    for task, asked in json.loads(Path(prompts_file).read_text()).items():
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in asked["prompts"]],
            [SamplingParams(max_tokens=max_tokens, temperature=0.0) for max_tokens in asked["max_tokens"]],
            use_tqdm=False,
        )
        answers[task] = [list(output.outputs[0].token_ids) for output in outputs]
    Path(answers_file).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
