"""How much of a task's quality a compressed model loses on documents that it was not made on, and how sure that is.

Quality of one answer, from 0 to 1, against the right answer of the source's column, or where there is none against the
source model's own answer:

- classify: 1 where the label is the same
- translate, generate: chrF (Popovic 2015), characters and their runs up to 6, by sacrebleu
- generate with a JSON schema: 1 where the JSON is the same
- summarize: ROUGE-L (Lin 2004), F of the longest common subsequence of words, by rapidfuzz

A document's drop is what the source model had of it less what the compressed model has; a row that fails has nothing.
The bound is where the mean drop lies with 95 % certainty at most, by bootstrap over documents (Efron 1979); of several
models that are tried in turn each is held to more, so that all together err no more often. One
document that loses everything is added to them: where nothing differs, a bootstrap would else be sure of 0 after one
document; so it says 3/n, as the rule of three does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from docmill.ops.compression.report import TaskQuality
from docmill.ops.tasks.generate import Generate
from docmill.ops.tasks.task import Task

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

CERTAINTY = 0.95
RESAMPLES = 4000
Score = Callable[[str, str], float]


@dataclass(frozen=True, slots=True)
class Answered:
    """One row of a task's output."""

    answer: str | None  # None where the row has no answer
    reference: str | None = None


def certainty_of(attempt: int, attempts: int) -> float:
    """For the bound of one of several models (0, 1, ...), of which the first that holds is published.

    Half of the 5 % of doubt is the first's, the others share the rest: never more than 5 % in all (Bonferroni), and the
    later ones need no more than a third more documents.
    """
    if attempts == 1:
        return CERTAINTY
    share = 0.5 if attempt == 0 else 0.5 / (attempts - 1)
    return 1 - (1 - CERTAINTY) * share


def compare(
    task: Task,
    source: Mapping[str, Answered],
    compressed: Mapping[str, Answered],
    *,
    has_references: bool,
    certainty: float = CERTAINTY,
) -> TaskQuality:
    """One task's rows by document id. Documents that the source model did not answer say nothing and are left out."""
    metric, score = metric_of(task)
    before, after, same = [], [], []
    for doc_id, row in source.items():
        right = row.reference if has_references else row.answer
        if row.answer is None or right is None:
            continue
        answer = compressed[doc_id].answer if doc_id in compressed else None
        before.append(score(row.answer, right))
        after.append(0.0 if answer is None else score(answer, right))
        same.append(answer == row.answer)
    drops = np.subtract(before, after)
    return TaskQuality(
        metric=metric,
        against="references" if has_references else "the source model's answers",
        documents=len(drops),
        source=_mean(before),
        compressed=_mean(after),
        drop=_mean(drops),
        most_drop=upper_bound(drops, certainty),
        equal_share=_mean(same),
    )


def metric_of(task: Task) -> tuple[str, Score]:
    """Its name, and how an answer is scored against the right one."""
    if task.kind == "classify":
        return "accuracy", _equal
    if task.kind == "summarize":
        return "ROUGE-L", rouge_l
    if isinstance(task, Generate) and task.json_schema is not None:
        return "same JSON", _equal_json
    return "chrF", chrf


def upper_bound(drops: Sequence[float] | np.ndarray[Any, Any], certainty: float = CERTAINTY) -> float:
    """Of the mean drop, with this certainty; 1 where there are no documents."""
    values = np.append(np.asarray(drops, dtype=float), 1.0)
    draw = np.random.default_rng(0)  # the same documents give the same bound
    means = [values[draw.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    return float(np.quantile(means, certainty))


def chrf(answer: str, right: str) -> float:
    """From 0 to 1; two empty texts are equal."""
    if answer == right:
        return 1.0
    return float(_chrf().sentence_score(answer, [right]).score) / 100


def rouge_l(answer: str, right: str) -> float:
    """From 0 to 1: F1 of precision and recall by the longest common subsequence of words."""
    from rapidfuzz.distance import LCSseq

    given, wanted = answer.split(), right.split()
    if not given or not wanted:
        return float(given == wanted)
    return 2 * LCSseq.similarity(given, wanted) / (len(given) + len(wanted))


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _equal(answer: str, right: str) -> float:
    return float(answer.strip() == right.strip())


def _equal_json(answer: str, right: str) -> float:
    try:
        return float(json.loads(answer) == json.loads(right))
    except ValueError:
        return _equal(answer, right)


def _mean(values: Sequence[float] | np.ndarray[Any, Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
