"""How long a step of a full batch takes in a model: a program of its own, which prints one line of JSON.

python steps_of_model.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time

NUM_SEQUENCES = 64
NUM_STEPS = 64  # of tokens written, and as many again to warm up


def main() -> None:
    from docmill.engine.quiet import quiet_libraries

    quiet_libraries()
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=sys.argv[1], dtype="float32", enforce_eager=True, max_num_seqs=NUM_SEQUENCES, max_model_len=512,
        kv_cache_memory_bytes=2**28, skip_tokenizer_init=True, seed=0,
    )  # fmt: skip
    prompts = [{"prompt_token_ids": [5 + number]} for number in range(NUM_SEQUENCES)]
    sampling = SamplingParams(max_tokens=NUM_STEPS, ignore_eos=True, temperature=0.0, detokenize=False)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        llm.generate(prompts, sampling, use_tqdm=False)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds_per_step": seconds[-1] / NUM_STEPS}))


if __name__ == "__main__":
    main()
