"""What docmill adds to vLLM: the whole job, Parquet to Parquet, against vLLM fed the same token ids all at once.

    .venv/bin/python tests/benchmarks/raw.py [--documents 1000] [--repeats 7]

One `LLM.generate` over all requests of the reference job in docmill's order is as fast as vLLM goes with them: it has
everything before it starts, nothing to read or tokenise, and writes nothing. The ratio is the median of the pairs'
`LLM.generate` / docmill in seconds. Answers are compared row by row, see `fusion.py`.

The two of a pair run one after the other, ABBA. By turns (`turns.py`), the machine's swings matter less, but docmill's
second process and what it does by the clock cost more than they do in an undisturbed run: `ratios_by_turns` has two
such pairs beside.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from comparison import Comparison, all_at_once, answers_hold
from measuring import parser, write_result

TARGET = 0.97


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=7)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="docmill-raw-") as name:
        comparison = Comparison(Path(name), num_documents=arguments.documents, duplicate_share=0.0)
        measured = comparison.measure(all_at_once, arguments.repeats, by_turns=False)
        turns = [comparison.pair(all_at_once, docmill_first=first) for first in (False, True)]
    measured["ratios_by_turns"] = [
        round(runs["all_at_once"]["seconds"] / runs["docmill"]["seconds"], 4) for runs, _ in turns
    ]
    measured["answers"] += [equal for _, equal in turns]
    ratio = measured["ratios"]["median"]
    write_result(
        "raw",
        measured | {"target": TARGET},
        ratio=ratio,
        met=ratio >= TARGET and answers_hold(measured),
        out=arguments.out,
        device=comparison.info.device,
        engine_versions=comparison.info.versions,
    )


if __name__ == "__main__":
    main()
