"""`docmill demo-accuracy`: the demo model's answers against the known ones."""

from __future__ import annotations

from docmill.ops import accuracy
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.run_progress import shown_progress


def accuracy_command(*, seed: int, num_documents: int, as_json: bool) -> bool:
    """Measure, print, and return whether every figure reaches its bar."""
    if as_json:
        with stdout_kept_clean():
            report = _measure(seed, num_documents)
        print_json(report.model_dump(mode="json"))
        return report.passed
    report = _measure(seed, num_documents)
    console = stdout_console()
    console.print(f"demo model, {report.documents:,} documents of seed {report.seed}")
    for name, share, bar in (
        ("labels", report.label_accuracy, accuracy.MIN_LABEL_ACCURACY),
        ("summaries, word for word", report.summary_exact_match, accuracy.MIN_SUMMARY_EXACT_MATCH),
        (
            "translated sentences, word for word",
            report.translation_sentence_exact_match,
            accuracy.MIN_TRANSLATION_SENTENCE_EXACT_MATCH,
        ),
    ):
        console.print(f"{'ok  ' if share >= bar else 'FAIL'}  {name:36} {share:7.2%}  (at least {bar:.2%})")
    return report.passed


def _measure(seed: int, num_documents: int) -> accuracy.AccuracyReport:
    with shown_progress(stderr_console()) as on_progress:
        return accuracy.demo_accuracy(seed=seed, num_documents=num_documents, on_progress=on_progress)
