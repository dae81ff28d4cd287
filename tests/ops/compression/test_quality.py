"""What a compressed model loses, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter

from docmill.ops.compression.quality import (
    CERTAINTY,
    Answered,
    certainty_of,
    chrf,
    compare,
    rouge_l,
    upper_bound,
)
from docmill.ops.tasks import AnyTask
from docmill.ops.tasks.task import Task

CLASSIFY = {"kind": "classify", "labels": ["a", "b"]}


def task(**settings: object) -> Task:
    return TypeAdapter(AnyTask).validate_python(settings)  # type: ignore[no-any-return]


def rows(*answers: str | None, references: list[str] | None = None) -> dict[str, Answered]:
    right = references or [None] * len(answers)
    return {
        str(number): Answered(answer, ref)
        for number, (answer, ref) in enumerate(zip(answers, right, strict=True))
    }


def test_without_references_the_source_models_answers_are_right() -> None:
    found = compare(
        task(**CLASSIFY), rows("a", "b", "a", None), rows("a", "a", None, "b"), has_references=False
    )
    assert (found.metric, found.documents) == ("accuracy", 3)  # what the source did not answer says nothing
    assert (found.source, found.compressed) == (1.0, pytest.approx(1 / 3))  # a row that fails has nothing
    assert found.drop == pytest.approx(2 / 3)
    assert found.equal_share == pytest.approx(1 / 3)


def test_with_references_another_answer_that_is_right_is_no_loss_and_a_better_one_is_a_gain() -> None:
    right = ["b", "b"]
    found = compare(
        task(**CLASSIFY),
        rows("a", "b", references=right),
        rows("b", "b", references=right),
        has_references=True,
    )
    assert (found.source, found.compressed, found.drop) == (0.5, 1.0, -0.5)


@pytest.mark.parametrize(
    ("settings", "metric", "answers", "wanted"),
    [
        ({"kind": "summarize"}, "ROUGE-L", ("the cat sat", "the dog sat"), 1 / 3),
        ({"kind": "generate", "instruction": "x"}, "chrF", ("same", "same"), 0.0),
        (
            {"kind": "generate", "instruction": "x", "json_schema": {"type": "object"}},
            "same JSON",
            ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
            0.0,
        ),
        ({"kind": "translate"}, "chrF", ("gut", ""), 1.0),
    ],
)
def test_each_kind_of_task_has_its_measure(
    settings: dict[str, object], metric: str, answers: tuple[str, str], wanted: float
) -> None:
    found = compare(task(**settings), rows(answers[0]), rows(answers[1]), has_references=False)
    assert (found.metric, found.drop) == (metric, pytest.approx(wanted))


def test_measures_agree_with_what_others_compute() -> None:
    # By hand: 3 of 4 and 3 of 5 words.
    assert rouge_l("a b c d", "a x b c y") == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert chrf("the cat sat on the mat", "the cat sat on a mat") > chrf("a mat", "the cat sat on a mat")


def test_equal_answers_are_no_proof_that_nothing_is_lost() -> None:
    """As the rule of three: nothing in n documents leaves up to 3/n."""
    for number in (20, 100, 500):
        assert upper_bound([0.0] * number) == pytest.approx(3 / number, rel=0.15)
    assert upper_bound([]) == 1.0


def test_the_bound_holds_as_often_as_it_says() -> None:
    draw, true = np.random.default_rng(7), 0.03
    samples = [(draw.random(200) < true).astype(float) for _ in range(60)]
    held = sum(upper_bound(sample) >= true for sample in samples)
    assert held >= 0.93 * len(samples)
    assert upper_bound(samples[0]) < true + 0.06  # and is not merely large


def test_several_tries_are_no_surer_together_than_one_alone() -> None:
    assert certainty_of(0, 1) == CERTAINTY
    doubts = [1 - certainty_of(attempt, 4) for attempt in range(4)]
    assert sum(doubts) == pytest.approx(1 - CERTAINTY)
    bounds = [upper_bound([0.0] * 399, certainty_of(attempt, 4)) for attempt in range(4)]
    assert bounds == pytest.approx([0.0075, 0.01, 0.01, 0.01])
