"""What our kernels change in vLLM as a whole: the same requests with and without them, tokens a second.

    .venv/bin/python tests/benchmarks/kernels_in_vllm.py [--models 0.6B 8B] [--quantization fp8 int8] [--repeats 5]

Qwen3's shapes with random weights, which are as fast as real ones, quantised to 8 bits while they load. Prompts of 512
tokens and answers of 64, all requests at once. An engine with kernels and one without, each in a process of its own,
first with, then without, then in the other order; each repeats the requests. The ratio is seconds without / seconds
with, of the medians. Greedy answers are compared token by token; random weights have close calls, so some may differ by
the rounding of an 8-bit number.

Part of `make gpu-check`. Wants vLLM, but nothing else of docmill's environment: it runs on a machine with PyTorch and
vLLM alone. `--models tiny` is for a look at it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# Qwen3's, as in `docmill.kernels.gpu_cases`.
SHAPES = {
    "tiny": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 6,
             "num_key_value_heads": 6, "head_dim": 32, "vocab_size": 4096},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
}  # fmt: skip
NUM_REQUESTS = {"tiny": 16, "0.6B": 512, "8B": 256}
PROMPT_TOKENS, ANSWER_TOKENS = 512, 64


def main() -> None:
    """Measures, prints a table, writes `kernels_in_vllm.json`."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="+", choices=SHAPES, default=["0.6B", "8B"])
    options.add_argument("--quantization", nargs="+", choices=["fp8", "int8"], default=["fp8"])
    options.add_argument("--repeats", type=int, default=5, help="in each process")
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("--child", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.child:
        print(json.dumps(run_engine(**json.loads(arguments.child))))
        return
    rows = [
        compare(model, quantization, arguments.repeats)
        for model in arguments.models
        for quantization in arguments.quantization
    ]
    result = {
        "benchmark": "kernels_in_vllm",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "rows": rows,
        "ratio": round(statistics.median(row["ratio"] for row in rows), 4),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "kernels_in_vllm.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'model':>6} {'':>5} {'without':>9} {'with':>9} {'ratio':>6}  answers that differ")
    for row in rows:
        seconds = [statistics.median(row["seconds"][name]) for name in ("without", "with")]
        print(
            f"{row['model']:>6} {row['quantization']:>5} {seconds[0]:>7.2f} s {seconds[1]:>7.2f} s "
            f"{row['ratio']:>6.3f}  {row['answers_that_differ']} of {row['answers']}"
        )


def compare(model: str, quantization: str, repeats: int) -> dict[str, Any]:
    """Four engines, one after the other: with, without, without, with."""
    runs: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    for name in ("with", "without", "without", "with"):
        order = {"model": model, "quantization": quantization, "repeats": repeats, "kernels": name == "with"}
        command = [sys.executable, "-P", __file__, "--child", json.dumps(order)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        runs[name].append(json.loads(printed.splitlines()[-1]))
    seconds = {name: [second for run in found for second in run["seconds"]] for name, found in runs.items()}
    for run in runs["with"]:
        assert run["calls"], f"no kernel ran: {run['kernels']}"
        assert all(run["calls"].values()), run["calls"]
    ours, theirs = runs["with"][0]["answers"], runs["without"][0]["answers"]
    return {
        "model": model,
        "quantization": quantization,
        "device": runs["with"][0]["device"],
        "versions": runs["with"][0]["versions"],
        "kernels": runs["with"][0]["kernels"],
        "implementation": runs["with"][0]["implementation"],
        "calls": runs["with"][0]["calls"],
        "seconds": seconds,
        "answers": len(ours),
        "answers_that_differ": sum(one != other for one, other in zip(ours, theirs, strict=True)),
        "ratio": round(statistics.median(seconds["without"]) / statistics.median(seconds["with"]), 4),
    }


def run_engine(*, model: str, quantization: str, repeats: int, kernels: bool) -> dict[str, Any]:
    """One engine in this process: seconds of each repeat, the answers, and what the kernels did."""
    from docmill.engine.config import KERNELS, EngineConfig, ModelConfig
    from docmill.engine.kernel_choice import choose_kernels
    from docmill.engine.vllm_plugin import register
    from docmill.engine.vllm_settings import engine_args, installed_for, prepare_environment

    device = installed_for()
    assert device is not None, "there is no vLLM here"
    config = EngineConfig(
        quantization=quantization,
        kernels=("auto" if device == "cuda" else KERNELS) if kernels else "off",  # never twins on a GPU
        max_model_len=PROMPT_TOKENS + ANSWER_TOKENS,
        extra={"load_format": "dummy", "skip_tokenizer_init": True, "enable_prefix_caching": False},
    )
    prepare_environment(device=device, offline=True, plugin=True)
    choice = choose_kernels(config, device=device)
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), SHAPES[model])
        args = engine_args(config, ModelConfig(source=folder), source=folder, device=device, kernels=choice)
        import torch
        import vllm

        register()  # where docmill is not installed, vLLM cannot find the plugin
        llm = vllm.LLM(**args)
        num_requests, vocabulary = NUM_REQUESTS[model], SHAPES[model]["vocab_size"]
        numbers = torch.randint(
            0, vocabulary, (num_requests, PROMPT_TOKENS), generator=torch.Generator().manual_seed(7)
        )
        prompts: list[Any] = [{"prompt_token_ids": row} for row in numbers.tolist()]
        sampling = vllm.SamplingParams(
            max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True, detokenize=False
        )
        llm.generate(prompts[:8], sampling, use_tqdm=False)
        before, seconds = _kernels(llm, choice.ops), []
        for _ in range(repeats):
            started = time.perf_counter()
            outputs = llm.generate(prompts, sampling, use_tqdm=False)
            seconds.append(round(time.perf_counter() - started, 4))
        after = _kernels(llm, choice.ops)
    return {
        "seconds": seconds,
        "answers": [list(output.outputs[0].token_ids) for output in outputs],
        "kernels": {op: found for op, (found, _) in after.items()} | dict(choice.reasons),
        "implementation": choice.implementation,
        "calls": {op: after[op][1] - before[op][1] for op in after},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "vllm": vllm.__version__},
    }


def write_config(folder: Path, shapes: dict[str, int]) -> None:
    """All of a model that dummy weights want."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
        **shapes,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _kernels(llm: Any, ops: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = llm.collective_rpc("kernels")[0] if ops else {}
    return found


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
