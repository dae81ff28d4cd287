"""What every benchmark here does the same way: sums its figures up, and writes down on what they were measured."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docmill.data.demo import LABELS
from docmill.ops.report import this_machine, versions

RESULTS = Path(__file__).parent / "results"
DEMO_TASKS = {
    "translations": {"kind": "translate"},
    "classifications": {"kind": "classify", "labels": list(LABELS)},
    "summaries": {"kind": "summarize"},
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """With `--out`, where the result is written."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    return made


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes of at least two values."""
    low, _, high = statistics.quantiles(values, n=4)
    return {
        "median": round(statistics.median(values), 4),
        "quartile_1": round(low, 4),
        "quartile_3": round(high, 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def write_result(
    name: str,
    figures: Mapping[str, Any],
    *,
    ratio: float,
    met: bool,
    out: Path,
    device: str = "cpu",
    engine_versions: Mapping[str, str] | None = None,
) -> None:
    """Into `{out}/{name}.json`; prints the short form as one line of JSON, which ends every benchmark's output."""
    result = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": this_machine(device).model_dump(),
        "versions": versions(dict(engine_versions or {})),
        **figures,
        "ratio": round(ratio, 4),
        "met": met,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    short = {key: value for key, value in result.items() if not isinstance(value, list | dict)}
    print(json.dumps(short))
