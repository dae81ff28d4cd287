"""A dozen kills over all layers, on the real vLLM: nothing lost, nothing twice, and no more redone than promised.

`make faults RUNS=100` does the same for longer. How the twelve are shared out is what their cost allows: an engine's
restart costs a load of the model, a gateway's nothing.
"""

from __future__ import annotations

import pytest
from faults.harness import Bench
from faults.kills import JobOutcome, summarise

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.s3, pytest.mark.timeout(600)]

SEED = 20261120
KILLS = {"engine": 3, "s3": 4, "driver": 2, "worker": 1, "dagster": 1, "node": 1}


@pytest.mark.parametrize("layer", KILLS)
def test_a_killed_job_ends_as_if_nothing_had_been(right: Bench, layer: str) -> None:
    lines: list[str] = []
    outcome = right.session(layer, SEED, tell=lines.append).disturb(KILLS[layer])
    assert outcome.kills, f"nothing was killed: {lines}"
    assert outcome.clean, f"{summarise([outcome])}\n{lines}"


def test_the_summary_of_a_series_names_what_did_not_hold() -> None:
    outcome = JobOutcome(
        "engine", 1, "local", lost=2, left_objects=["_docmill/x.tmp"], tokens=10, engine_tokens=12
    )
    summary = summarise([outcome, JobOutcome("s3", 2, "ceph", tokens=10, engine_tokens=10)])
    assert not summary["clean"]
    assert (summary["lost"], summary["left_objects"]) == (2, 1)
    assert summary["problems"] == ["engine seed 1: left: _docmill/x.tmp"]
    assert summary["all_redone_share"] == {"all": 0.1, "engine": 0.2, "s3": 0.0}
