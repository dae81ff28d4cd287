"""The figures: rates, bills and memory. That a whole run's figures add up is in test_partition_job.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from docmill.ops.job import Prices
from docmill.ops.report import Counts, Report, Seconds, TaskReport, Tokens, bill, peak_memory_mib, rates

HOUR = 3600.0


def tasks(**tokens: tuple[int, int, int]) -> dict[str, TaskReport]:
    return {
        name: TaskReport(kind="translate", tokens=Tokens(prompt=prompt, cached=cached, output=output))
        for name, (prompt, cached, output) in tokens.items()
    }


def test_a_run_costs_its_wall_time_and_each_task_its_part_of_the_work() -> None:
    # 1000 computed prompt tokens against 200 computed ones and 200 answered, which count four times.
    reports = tasks(first=(1000, 0, 0), second=(1000, 800, 200))
    cost = bill(reports, documents=500, engine_seconds=HOUR, usd_per_hour=3.0)
    assert (cost.usd_per_hour, cost.usd, cost.usd_per_1000_documents) == (3.0, 3.0, 6.0)
    assert reports["first"].usd == pytest.approx(1.5)
    assert reports["second"].usd == pytest.approx(1.5)


def test_without_any_work_tasks_share_the_bill_equally() -> None:
    reports = tasks(first=(0, 0, 0), second=(0, 0, 0))
    cost = bill(reports, documents=0, engine_seconds=HOUR, usd_per_hour=3.0)
    assert [task.usd for task in reports.values()] == [1.5, 1.5]
    assert cost.usd_per_1000_documents is None


def test_rates_leave_out_the_loading_of_the_model() -> None:
    found = rates(
        documents=3000,
        tokens=Tokens(prompt=6000, cached=1000, output=300),
        seconds=Seconds(wall=3600, model_load=600, engine=1500),
    )
    assert found.documents_per_second == pytest.approx(1.0)
    assert found.prompt_tokens_per_second == pytest.approx(2.0)
    assert found.output_tokens_per_second == pytest.approx(0.1)
    assert found.engine_busy_share == pytest.approx(0.5)


def test_a_run_that_took_no_time_has_finite_rates() -> None:
    found = rates(documents=0, tokens=Tokens(), seconds=Seconds(wall=1.0, model_load=1.0, engine=0.5))
    assert found.documents_per_second == 0
    assert found.engine_busy_share == 1.0
    json.dumps(found.model_dump(), allow_nan=False)


def test_the_price_is_that_of_the_longest_name_that_fits() -> None:
    prices = Prices(usd_per_hour={"nvidia": 1.0, "nvidia-h100": 3.0, "cpu": 0.1})
    assert prices.of("nvidia-h100-80gb") == 3.0
    assert prices.of("nvidia-l4") == 1.0
    assert prices.of("tpu") is None


def test_counts_know_whether_they_balance() -> None:
    assert Counts(rows=6, ok=3, failed=2, skipped=1).balanced
    assert not Counts(rows=6, ok=3, failed=2, skipped=0).balanced


def test_the_report_has_a_schema_that_forbids_what_it_does_not_name() -> None:
    schema = Report.model_json_schema()
    assert schema["additionalProperties"] is False
    assert {"report_version", "documents", "tasks", "tokens", "seconds", "cost", "peak_memory_mib"} <= set(
        schema["properties"]
    )


def test_the_peak_is_this_processs_own_and_not_that_of_who_started_it() -> None:
    """Dagster starts a process for a run; getrusage would count the largest that Dagster ever was."""
    here = bytearray(300 << 20)
    code = "from docmill.ops.report import peak_memory_mib; print(peak_memory_mib())"
    child = float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert peak_memory_mib() > len(here) / 2**20
    assert 10 < child < 250


def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    before = peak_memory_mib()
    held = bytearray(b"x") * (int(before + 100) << 20)
    del held
    assert peak_memory_mib() > before + 90
