"""All tasks in one read of a document, against `LLM.generate` a task: the reference job both ways.

    .venv/bin/python tests/benchmarks/fusion.py [--documents 3000] [--duplicates 0] [--repeats 5]

`per shard` is one `LLM.generate` a shard and task, shard after shard, and what the ratio is to; `per task` is one a
task over everything, compared once at the end. `comparison.py` says what is equal between them.

Every row's answer must be that of `LLM.generate`. Where another batch changes the last digits of a step, a greedy
answer may turn: how many rows differ is in the result, and more than one in 200 is a missed target. The ratio is the
median of the pairs' per shard / docmill in seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from comparison import Comparison, answers_hold, per_shard, per_task
from measuring import parser, write_result

TARGETS = {False: 2.0, True: 2.4}  # by whether there are duplicates
COMPUTED_TARGET = 0.45


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=3000)
    options.add_argument(
        "--duplicates", type=float, default=0.0, help="share of documents with an earlier text"
    )
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="docmill-fusion-") as name:
        comparison = Comparison(
            Path(name), num_documents=arguments.documents, duplicate_share=arguments.duplicates
        )
        measured = comparison.measure(per_shard, arguments.repeats)
        everything, equal = comparison.pair(per_task, docmill_first=False)
    docmill, plain = (
        next(run for run in measured["runs"] if run["way"] == way) for way in ("docmill", "per_shard")
    )
    computed = docmill["computed_prompt_tokens"] / plain["computed_prompt_tokens"]
    target, ratio = TARGETS[arguments.duplicates > 0], measured["ratios"]["median"]
    measured["runs"] += everything.values()
    measured["answers"].append(equal)
    to_per_task = everything["per_task"]["seconds"] / everything["docmill"]["seconds"]
    write_result(
        f"fusion_{round(100 * arguments.duplicates)}_duplicates" if arguments.duplicates else "fusion",
        measured
        | {
            "computed_prompt_tokens_ratio": round(computed, 4),
            "ratio_to_per_task": round(to_per_task, 4),
            "targets": {"ratio": target, "computed_prompt_tokens_ratio": COMPUTED_TARGET},
        },
        ratio=ratio,
        met=ratio >= target and computed <= COMPUTED_TARGET and answers_hold(measured),
        out=arguments.out,
        device=comparison.info.device,
        engine_versions=comparison.info.versions,
    )


if __name__ == "__main__":
    main()
