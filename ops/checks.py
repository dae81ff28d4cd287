"""What a reader of answers wants to be sure of: looked at after every run, with the limits of the job (`check_limits`).

A check compares figures that the report has already, or reads one column of the answers. The answers are written by
then, and stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from docmill.data.errors import NoAnswers
from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.ops.languages import MOST_CHARS, is_alike, language_code, language_detector, language_name
from docmill.ops.report import Report
from docmill.ops.tasks import Classify, Translate

DAYS_BEFORE = 7  # that labels are compared with
FEWEST_ROWS = 100  # with a label, in those days and in this one: fewer shift by chance
MOST_ANSWERS = 1000  # of a translation, evenly taken, whose language is looked at
FEWEST_ANSWERS = 20  # that say enough to tell their language: one of fewer is more than any share


@dataclass(frozen=True)
class Check:
    """One result. `words` say what was found and what was allowed."""

    passed: bool
    words: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckKind:
    """`is_error`: what fails it is wrong; else it is worth a look. `is_blocking`: it fails the run as well.

    No number of rows without an answer fails a run: which ones they are stands in them.
    """

    description: str
    is_error: bool = False
    is_blocking: bool = False


BALANCED, FAILED, TRUNCATED, EMPTY, LANGUAGE, LABELS = (
    "counts_balance",
    "failed_share",
    "truncated_share",
    "empty_share",
    "other_language_share",
    "label_shift",
)
BUDGET, ESTIMATE = "within_budget", "as_estimated"

KINDS = {
    BALANCED: CheckKind(
        "Every row is accounted for: rows = ok + failed + skipped", is_error=True, is_blocking=True
    ),
    FAILED: CheckKind("Few of the rows that were asked about have no answer", is_error=True),
    TRUNCATED: CheckKind("Few answers are cut off at the task's token limit"),
    EMPTY: CheckKind("Few answers are empty"),
    LANGUAGE: CheckKind("Few translations are in another language than the task's target language"),
    LABELS: CheckKind("Labels are spread as in the week before"),
    BUDGET: CheckKind("The run cost no more than `budget.max_usd`"),
    ESTIMATE: CheckKind("The bill is about what `docmill plan` expected"),
}


def task_check_names(job: Job, task: str) -> list[str]:
    """The checks of one task's answers."""
    if isinstance(job.tasks[task], Classify):
        return [BALANCED, FAILED, *([LABELS] if job.source.partition_key else [])]
    language = [LANGUAGE] if isinstance(job.tasks[task], Translate) else []
    return [BALANCED, FAILED, TRUNCATED, EMPTY, *language]


def report_check_names(job: Job) -> list[str]:
    """The checks of a run as a whole."""
    return [*([BUDGET] if job.budget.max_usd is not None else []), ESTIMATE]


def check_task(name: str, job: Job, partition: Partition, report: Report, task: str) -> Check:
    """One of `task_check_names`, of answers that are finished."""
    return _OF_A_TASK[name](job, partition, report, task)


def check_report(name: str, job: Job, report: Report) -> Check:
    """One of `report_check_names`."""
    return _OF_A_REPORT[name](job, report)


def _balanced(_job: Job, _partition: Partition, report: Report, task: str) -> Check:
    counts = report.tasks[task].counts
    words = f"{counts.rows:,} rows: {counts.ok:,} ok, {counts.failed:,} failed, {counts.skipped:,} skipped"
    return Check(counts.balanced, words, {"rows": counts.rows})


def _failed(job: Job, _partition: Partition, report: Report, task: str) -> Check:
    counts = report.tasks[task].counts
    return _share(
        counts.failed, counts.ok + counts.failed, job.checks.max_failed_share, "rows have no answer"
    )


def _truncated(job: Job, _partition: Partition, report: Report, task: str) -> Check:
    figures = report.tasks[task]
    return _share(
        figures.truncated_answers, figures.counts.ok, job.checks.max_truncated_share, "answers are cut off"
    )


def _empty(job: Job, partition: Partition, _report: Report, task: str) -> Check:
    # Only here: Polars takes SIGINT for itself, and `docmill ui` loads this file.
    import polars as pl

    from docmill.data.answers import scan_answers

    column = job.tasks[task].columns[0].name
    answers = scan_answers(job.output.uri, task, first=partition.value, last=partition.value)
    ok = answers.filter(pl.col("status") == "ok")
    num_empty, num_ok = (
        ok.select((pl.col(column).cast(pl.String).str.strip_chars() == "").sum(), pl.len()).collect().row(0)
    )
    return _share(num_empty, num_ok, job.checks.max_empty_share, "answers are empty")


def _language(job: Job, partition: Partition, _report: Report, task: str) -> Check:
    translate = job.tasks[task]
    assert isinstance(translate, Translate)
    if (
        "{target_language}" not in translate.instruction
        and "target_language" not in translate.model_fields_set
    ):
        return Check(True, "neither the instruction nor the job says `target_language`: nobody has looked")
    target = language_code(translate.target_language)
    if target is None:
        known = f"{translate.target_language!r} is not the name of one language that py3langid knows"
        return Check(True, f"{known}: nobody has looked")
    # Only here, see `_empty`.
    import polars as pl

    from docmill.data.answers import scan_answers_of

    answers = scan_answers_of(job.output.uri, task, partition)
    is_ok = pl.col("status") == "ok"
    every = max(1, -(-answers.select(is_ok.sum()).collect().item() // MOST_ANSWERS))
    taken = answers.with_row_index("_row").filter(pl.col("_row") % every == 0, is_ok)
    texts = taken.select(pl.col(translate.columns[0].name).drop_nulls().str.slice(0, MOST_CHARS))
    detect = language_detector()
    found = Counter(
        code for text in texts.collect(engine="streaming").to_series() if (code := detect(text)) is not None
    )
    others = Counter({code: number for code, number in found.items() if not is_alike(code, target)})
    if found.total() < FEWEST_ANSWERS:
        return Check(True, f"fewer than {FEWEST_ANSWERS} answers say enough to tell their language")
    most = f"; {language_name(others.most_common(1)[0][0])} most" if others else ""
    check = _share(
        others.total(),
        found.total(),
        job.checks.max_other_language_share,
        f"answers that were looked at are not in {language_name(target)}",
    )
    return replace(check, words=check.words + most)


def _labels(job: Job, partition: Partition, _report: Report, task: str) -> Check:
    period, value = job.source.period, str(partition.value)
    first, last = period.before(value, timedelta(days=DAYS_BEFORE)), period.before(value, period.length)
    try:
        before = _spread(job, task, first, last)
    except NoAnswers:
        before = {}
    now = _spread(job, task, value, value)
    if min(sum(before.values()), sum(now.values())) < FEWEST_ROWS:
        return Check(
            True, f"fewer than {FEWEST_ROWS} labels in this {period.name} or the {DAYS_BEFORE} days before it"
        )
    shift = sum(abs(_part(now, label) - _part(before, label)) for label in {*before, *now}) / 2
    most = max({*before, *now}, key=lambda label: abs(_part(now, label) - _part(before, label)))
    limit = job.checks.max_label_shift
    words = (
        f"{shift:.1%} of the rows have another label than in the {DAYS_BEFORE} days before (allowed {limit:.1%}); "
        f"{most!r} most: {_part(now, most):.1%}, before {_part(before, most):.1%}"
    )
    return Check(shift <= limit, words, {"shift": shift})


def _spread(job: Job, task: str, first: str, last: str) -> dict[str, int]:
    """Rows by label."""
    import polars as pl

    from docmill.data.answers import scan_answers

    answers = scan_answers(job.output.uri, task, first=first, last=last)
    counted = answers.filter(pl.col("status") == "ok").group_by("label").len().collect()
    return dict(counted.iter_rows())


def _part(spread: Mapping[str, int], label: str) -> float:
    return spread.get(label, 0) / sum(spread.values())


def _budget(job: Job, report: Report) -> Check:
    limit, usd = job.budget.max_usd, report.cost.usd
    if limit is None or usd is None:
        return Check(True, "the cost is not known: `prices.usd_per_hour` says nothing about the device")
    return Check(usd <= limit, f"{usd:.4f} USD of {limit:.4f}", {"usd": usd})


def _as_estimated(job: Job, report: Report) -> Check:
    expected = report.estimate.usd.expected if report.estimate and report.estimate.usd else None
    if not expected or report.cost.usd is None:
        return Check(True, "`docmill plan` was not asked before, or there are no prices")
    error = report.cost.usd / expected - 1
    limit = job.checks.max_estimate_error
    more = "more" if error > 0 else "less"
    words = f"{report.cost.usd:.4f} USD, {abs(error):.0%} {more} than expected (allowed {limit:.0%})"
    return Check(abs(error) <= limit, words, {"error": error})


def _share(part: int, whole: int, limit: float, what: str) -> Check:
    share = part / whole if whole else 0.0
    words = f"{part:,} of {whole:,} {what}, {share:.1%} (allowed {limit:.1%})"
    return Check(share <= limit, words, {"share": share})


_OF_A_TASK: dict[str, Callable[[Job, Partition, Report, str], Check]] = {
    BALANCED: _balanced,
    FAILED: _failed,
    TRUNCATED: _truncated,
    EMPTY: _empty,
    LANGUAGE: _language,
    LABELS: _labels,
}
_OF_A_REPORT: dict[str, Callable[[Job, Report], Check]] = {BUDGET: _budget, ESTIMATE: _as_estimated}
