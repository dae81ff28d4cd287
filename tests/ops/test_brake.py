"""The brake: which limit of the budget stops a run, and when. Beats are the test's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docmill.data.layout import Layout
from docmill.data.ledger import Beat, Ledger
from docmill.data.plan import Plan
from docmill.data.records import Partition
from docmill.ops import brake as brake_module
from docmill.ops.brake import Brake


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Layout(str(tmp_path), Partition()), Plan("job", "all", [], "settings", [], []))


def beat(ledger: Ledger, worker: str, *, seconds: float = 0.0, answers: int = 0, failed: int = 0) -> None:
    figures = {"engine": {"device": "nvidia-h100-80gb"}, "answers": answers, "failed": failed}
    ledger.beat(Beat(worker, "host", 1, 0.0, seconds=seconds, figures=figures))


def brake(folder: Any, ledger: Ledger, **budget: float) -> Brake:
    return Brake(folder.job(budget=budget, prices={"usd_per_hour": {"nvidia": 3.6}}), ledger)


def test_without_a_budget_nothing_is_read_and_nothing_stops(folder: Any, ledger: Ledger) -> None:
    class Unread(Ledger):
        def view(self) -> Any:
            raise AssertionError("it was read")

    assert Brake(folder.job(), Unread(ledger.layout, ledger.plan)).reason(at_the_end=True) is None


def test_money_is_of_all_workers_those_of_runs_that_did_not_end_too(folder: Any, ledger: Ledger) -> None:
    beat(ledger, "w1", seconds=600)
    beat(ledger, "dead", seconds=300)
    assert brake(folder, ledger, max_usd=0.91).reason() is None
    said = brake(folder, ledger, max_usd=0.89).reason()
    assert said == "budget.max_usd: $0.9000 of $0.89 are spent, runs that did not end included"


@pytest.mark.parametrize(
    ("settings", "usd"),
    [
        ({"engine": {"tensor_parallel_size": 4}}, "$2.4000"),
        ({"pool": {"kind": "ray", "workers": 2, "gpus_per_worker": 0.5}}, "$0.3000"),
    ],
)
def test_an_engine_costs_what_its_devices_cost(
    folder: Any, ledger: Ledger, settings: dict[str, Any], usd: str
) -> None:
    beat(ledger, "w1", seconds=600)
    job = folder.job(budget={"max_usd": 0.01}, prices={"usd_per_hour": {"nvidia": 3.6}}, **settings)
    said = Brake(job, ledger).reason()
    assert said is not None
    assert f"{usd} of $0.01" in said


def test_when_all_is_done_money_and_hours_no_longer_count(folder: Any, ledger: Ledger) -> None:
    beat(ledger, "w1", seconds=3600)
    assert brake(folder, ledger, max_usd=0.01, max_hours=1e-9).reason(at_the_end=True) is None


def test_hours_are_of_this_run(folder: Any, ledger: Ledger) -> None:
    beat(ledger, "w1", seconds=7200)
    assert brake(folder, ledger, max_hours=1.0).reason() is None
    assert "budget.max_hours: this run has taken 0.00 hours of 1e-09" in str(
        brake(folder, ledger, max_hours=1e-9).reason()
    )


def test_a_share_of_few_answers_says_nothing_before_the_end(folder: Any, ledger: Ledger) -> None:
    beat(ledger, "w1", answers=40, failed=30)
    assert brake(folder, ledger, max_failed_share=0.5).reason() is None
    said = brake(folder, ledger, max_failed_share=0.5).reason(at_the_end=True)
    assert said == "budget.max_failed_share: 30 of 40 answers failed, more than 50.0%"


def test_a_share_is_of_all_workers_together(folder: Any, ledger: Ledger) -> None:
    beat(ledger, "w1", answers=80, failed=12)
    beat(ledger, "w2", answers=120, failed=8)
    assert brake(folder, ledger, max_failed_share=0.1).reason() is None, "exactly the limit is allowed"
    assert brake(folder, ledger, max_failed_share=0.09).reason() is not None


def test_the_ledger_is_read_now_and_then_only(
    folder: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = brake(folder, ledger, max_failed_share=0.1)
    assert watching.reason() is None
    beat(ledger, "w1", answers=100, failed=100)
    assert watching.reason() is None
    monkeypatch.setattr(brake_module, "LOOK_SECONDS", 0.0)
    assert watching.reason() is not None
