"""`docmill tune`: the engine's fastest settings for a job's own documents, and the table they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.errors import Stopped
from docmill.ops.job import Job
from docmill.ops.partition_job import model_fingerprint_of
from docmill.ops.sources import ensure_source
from docmill.ops.tuned_engines import forget_tuned
from docmill.ops.tuning import PAIRS, Settings, Trial, Tuned
from docmill.ops.tuning_trials import TuningResult, tune_job
from docmill.pipelines.answer_rows import clip
from docmill.pipelines.choices import choose_partition
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.job_files import load_job
from docmill.pipelines.logs import without_secrets
from docmill.pipelines.progress_lines import duration
from docmill.pipelines.run_progress import shown_progress
from docmill.pipelines.settings_text import setting_text, settings_text
from docmill.pipelines.stop_signals import StopSignals

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_TROUBLE_CHARS = 60


def tune_command(
    job_name: str,
    *,
    partition_value: str | None,
    minutes: float,
    documents: int | None,
    fp8_kv: bool,
    as_json: bool,
) -> None:
    """Measure, store what is reliably faster, and print the table."""
    job = load_job(job_name)
    ensure_source(job)
    partition = choose_partition(job, partition_value)
    if as_json:
        with stdout_kept_clean():
            result = _tune(job, partition, minutes, documents, fp8_kv)
        print_json(_as_json(job, partition, result))
    else:
        print_tuning(stdout_console(), job, _tune(job, partition, minutes, documents, fp8_kv))


def forget_command(job_name: str, *, as_json: bool) -> None:
    """Take out what was tuned for the job's model, on whatever device."""
    job = load_job(job_name)
    number = forget_tuned(job.output.uri, model_fingerprint_of(job))
    if as_json:
        print_json({"job": job.name, "forgotten": number})
    else:
        what = f"forgotten  {number:,} tuned" if number else "nothing was tuned for the job's model"
        stdout_console().print(what)


def print_tuning(console: Console, job: Job, result: TuningResult) -> None:
    """The table of trials, and what follows from it."""
    console.print(_table(job, result))
    for line in result_lines(job, result):
        console.print(line, soft_wrap=True)


def result_lines(job: Job, result: TuningResult) -> list[str]:
    """What there is to say below the table."""
    tuned = result.tuned
    cut = "" if tuned.complete else "; the time was up before all was tried"
    lines = [
        f"sample     {result.num_documents:,} of {result.num_documents_total:,} documents, on {result.hardware}",
        f"time       {duration(result.seconds)}, {len(tuned.trials)} trial{'s' * (len(tuned.trials) > 1)}{cut}",
    ]
    best = settings_text(tuned.best.settings)
    if tuned.verdict == "faster":
        lines.append(f"faster     {best}: {_in_turns(tuned)}")
        if result.lossy:
            lines.append(
                "to use     an FP8 KV cache changes answers, so the job's file has to ask for it: "
                "engine: {extra: {kv_cache_dtype: fp8}}; the other settings then join by themselves"
            )
        uri = Layout.tuning(job.output.uri)
        lines.append(f"stored     {uri}; `docmill tune {job.name} --forget` takes it out")
    elif tuned.verdict == "too little time":
        longest = max(trial.seconds for trial in tuned.trials)
        least = result.seconds + (2 * PAIRS + 1) * longest
        lines.append(
            f"unchanged  too little time: a trial took {duration(longest)}; --minutes {least / 60:.0f} is the least"
        )
    elif tuned.verdict == "nothing faster":
        lines.append("unchanged  nothing was faster than the present settings")
    else:
        lines.append(f"unchanged  {best} looked faster, but not reliably: {_in_turns(tuned)}")
    return lines


def _in_turns(tuned: Tuned) -> str:
    if tuned.speedup is None or tuned.spread is None:
        return "it failed when it ran again"
    times = f"{tuned.speedup:.2f} times as fast as the present settings"
    if len(tuned.pairs) == 1:
        return f"{times} when both ran again"
    return (
        f"{times} in {len(tuned.pairs)} runs of each in turns; equal runs lay up to {tuned.spread:.1%} apart"
    )


def _tune(
    job: Job, partition: Partition, minutes: float, documents: int | None, fp8_kv: bool
) -> TuningResult:
    console = stderr_console()
    console.print(f"tuning for about {minutes:g} minutes; answers of the trials are thrown away")
    first: list[Trial] = []

    def on_stop() -> None:
        console.print("stopping: nothing is stored")

    def on_trial(trial: Trial) -> None:
        first.append(trial)
        console.print(f"trial {len(first)}: {_trial_line(trial, first[0])}", soft_wrap=True)

    with (
        shown_progress(console) as on_progress,
        StopSignals(on_progress, on_stop=on_stop, impatient=True) as signals,
    ):
        try:
            return tune_job(
                job,
                partition,
                seconds=minutes * 60,
                num_documents=documents,
                fp8_kv=fp8_kv,
                on_progress=signals.on_progress,
                on_trial=on_trial,
                stop=signals.stop,
            )
        except Stopped as error:  # it tells how to finish a run, and there is none to finish
            raise KeyboardInterrupt from error


def _trial_line(trial: Trial, present: Trial) -> str:
    settings = settings_text(trial.settings)
    if trial.speed is None:
        return f"{settings}: {_trouble(trial)}"
    ratio = "" if trial is present else f", {_ratio(trial, present)} of the present"
    return f"{settings}: {trial.tokens_per_second:,.0f} tokens/s{ratio}"


def _table(job: Job, result: TuningResult) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    tuned = result.tuned
    table = Table(box=SIMPLE_HEAD, title=f"{job.name}: trials, in their order", title_justify="left")
    names = list(tuned.present.settings)
    for name in (*names, "tokens/s", "ratio", "full", "KV peak", "load"):
        table.add_column(name, justify="right")
    table.add_column("")
    seen: list[Settings] = []
    for trial in tuned.trials:
        values = [setting_text(trial.settings[name]) for name in names]
        if trial.speed is None:
            figures = ["-"] * 5
        else:
            figures = [
                f"{trial.tokens_per_second:,.0f}",
                _ratio(trial, tuned.present),
                f"{trial.full_share:.0%}",
                f"{trial.kv_cache_peak:.0%}",
                f"{trial.load_seconds:.1f} s",
            ]
        if trial.trouble:
            note = clip(_trouble(trial), max_chars=MOST_TROUBLE_CHARS)
        else:
            note = "present" if trial is tuned.present else "again" if trial.settings in seen else ""
        seen.append(trial.settings)
        table.add_row(*values, *figures, note)
    return table


def _ratio(trial: Trial, present: Trial) -> str:
    return f"{trial.speed / present.speed:.2f}" if trial.speed and present.speed else "-"


def _trouble(trial: Trial) -> str:
    return without_secrets(trial.trouble or "")


def _as_json(job: Job, partition: Partition, result: TuningResult) -> dict[str, Any]:
    tuned = result.tuned
    return {
        "job": job.name,
        "partition": str(partition),
        "device": result.device,
        "hardware": result.hardware,
        "documents": result.num_documents,
        "documents_total": result.num_documents_total,
        "seconds": result.seconds,
        "complete": tuned.complete,
        "verdict": tuned.verdict,
        "present": dict(tuned.present.settings),
        "best": dict(tuned.best.settings),
        "speedup": tuned.speedup,
        "spread": tuned.spread,
        "changes_answers": result.lossy,
        "stored": Layout.tuning(job.output.uri) if result.stored else None,
        "trials": [_trial_as_json(trial, tuned.present) for trial in tuned.trials],
    }


def _trial_as_json(trial: Trial, present: Trial) -> dict[str, Any]:
    return {
        "settings": dict(trial.settings),
        "documents_per_second": trial.speed,
        "tokens_per_second": trial.tokens_per_second if trial.speed else None,
        "ratio": trial.speed / present.speed if trial.speed and present.speed else None,
        "full_share": trial.full_share,
        "most_running": trial.most_running,
        "kv_cache_peak": trial.kv_cache_peak,
        "load_seconds": trial.load_seconds,
        "seconds": trial.seconds,
        "trouble": _trouble(trial) or None,
    }
