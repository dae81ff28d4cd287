"""What `docmill plan` counts is what a run asks; and what it expects of time follows from what runs have shown."""

from __future__ import annotations

from typing import Any

import pytest

from docmill.data import storage
from docmill.data.layout import Layout
from docmill.engine.fake_engine import NUM_OUTPUT_TOKENS
from docmill.ops import estimate as estimates
from docmill.ops.estimate import estimate_partition
from docmill.ops.expected import Estimate, Range
from docmill.ops.probe import probe
from docmill.ops.profile import read_profile

DAY = "2026-11-20"
TASKS = ["translations", "classifications", "summaries"]


def estimate(folder: Any, **changes: Any) -> Estimate:
    job = folder.job(**changes)
    return estimate_partition(job, job.partition(DAY), tokenizer=folder.tokenizer)


def texts(number: int) -> list[str]:
    return [f"Text {n}. " + "The lamp of the last order is broken. " * (n % 7) for n in range(number)]


def test_it_counts_what_a_run_then_asks(folder: Any) -> None:
    folder.write("a", [*texts(40), None, "", "Text 3. " + "The lamp of the last order is broken. " * 3])
    folder.write("b", [" ".join(f"Sentence {number}." for number in range(900))])  # several chunks
    found = estimate(folder)
    report = folder.run()
    assert (found.documents, found.counted_documents, found.not_asked_documents) == (44, 44, 2)
    assert found.duplicate_documents == 1
    for name in TASKS:
        expected, task = found.tasks[name], report.tasks[name]
        if name == "summaries":  # rounds over summaries of chunks: how long those are is a guess
            assert expected.requests == pytest.approx(task.requests, abs=3)
            continue
        assert (expected.requests, expected.duplicate_requests) == (task.requests, task.duplicate_requests)
        if name == "translations":
            assert expected.prompt_tokens == task.tokens.prompt - task.spared_tokens.prompt
    assert (found.device, found.wall_seconds, found.usd) == (None, None, None)


def test_texts_that_earlier_nights_have_answered_are_not_counted_again(folder: Any) -> None:
    settings = {"reuse": {}}
    folder.settings = folder.settings | settings
    folder.write("a", texts(30))
    folder.run()
    folder.write("b", [*texts(20), *[f"New {number}." for number in range(5)]], day="2026-11-21")
    job = folder.job()
    found = estimate_partition(job, job.partition("2026-11-21"), tokenizer=folder.tokenizer)
    assert (found.documents, found.reused_documents) == (25, 20)
    assert [(task.requests, task.reused_requests) for task in found.tasks.values()] == [(25, 20)] * 3
    report = folder.run(day="2026-11-21")
    asked = {name: task.tokens.prompt - task.spared_tokens.prompt for name, task in report.tasks.items()}
    assert found.tasks["translations"].prompt_tokens == asked["translations"]


def test_a_large_partition_is_sampled_evenly(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a", texts(140))
    folder.write("b", texts(140)[:60])
    whole = estimate(folder)
    monkeypatch.setattr(estimates, "MAX_COUNTED_ROWS", 70)
    part = estimate(folder)
    assert (part.documents, part.counted_documents) == (200, 67)
    assert part.tasks["translations"].prompt_tokens == pytest.approx(
        whole.tasks["translations"].prompt_tokens, rel=0.1
    )
    assert part.duplicate_documents == pytest.approx(60, abs=4)


def test_answers_are_expected_as_long_as_earlier_ones_were(folder: Any) -> None:
    folder.write("a", texts(60))
    before = estimate(folder).tasks["translations"].output_tokens
    report = folder.run()
    after = estimate(folder).tasks["translations"].output_tokens
    written = report.tasks["translations"].tokens.output
    assert written <= 60 * NUM_OUTPUT_TOKENS
    assert abs(after - written) < abs(before - written) / 2
    assert set(read_profile(folder.job()).lengths) == {folder.job().settings_hash(name) for name in TASKS}


def test_a_probe_teaches_the_profile_and_leaves_no_answers(folder: Any) -> None:
    folder.write("a", texts(200))
    job = folder.job()
    report = probe(job, job.partition(DAY), num_documents=50, tokenizer=folder.tokenizer)
    assert 40 <= report.documents <= 60
    assert len(read_profile(job).lengths) == 3
    names = {file.name for file in storage.list_files(job.output.uri)}
    assert names == {"_docmill/profile.json"}


def test_the_estimate_is_left_for_the_report(folder: Any) -> None:
    folder.write("a", texts(3))
    found = estimate(folder)
    job = folder.job()
    stored = storage.read_bytes(Layout(job.output.uri, job.partition(DAY)).estimate)
    assert Estimate.model_validate_json(stored) == found
    assert folder.run().estimate == found
    folder.write("b", texts(5))  # another plan
    assert folder.run().estimate is None


def test_ranges_add_and_scale() -> None:
    total = Range(low=1, expected=2, high=4).plus(Range(low=1, expected=1, high=1)).times(2)
    assert total == Range(low=4, expected=6, high=10)
