"""`docmill run` and `docmill demo`: one partition, from the command line to the report."""

from __future__ import annotations

import typer

from docmill.data.records import Partition
from docmill.ops.compression.compress_job import ensure_compressed
from docmill.ops.job import DemoCorpus, Job
from docmill.ops.partition_job import run_partition
from docmill.ops.partitions import list_partitions
from docmill.ops.report import Report
from docmill.ops.sources import ensure_source
from docmill.pipelines.choices import choose_partition, choose_tasks
from docmill.pipelines.compression_text import print_compressed
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job
from docmill.pipelines.report_page import write_report_page
from docmill.pipelines.report_text import print_report
from docmill.pipelines.run_progress import StepLines, shown_progress
from docmill.pipelines.show_command import show_answers
from docmill.pipelines.stop_signals import STOP_SECONDS, StopSignals

DEMO_ROWS_SHOWN = 5


def run_command(job_name: str, *, partition_value: str | None, tasks: str | None, as_json: bool) -> None:
    """Run one partition, show or print the report, and end with 3 if some shards could not be used."""
    job = load_job(job_name)
    chosen = choose_tasks(job, tasks)
    ensure_source(job)
    partition = choose_partition(job, partition_value)
    if as_json:
        with stdout_kept_clean():
            report = run(job, partition, chosen)
        print_json(report.model_dump(mode="json"))
    else:
        report = run(job, partition, chosen)
        print_report(stdout_console(), job, partition, report)
    if report.failed_shards:
        raise typer.Exit(ExitCode.INCOMPLETE)


def demo_command(*, as_json: bool) -> None:
    """Run the job `demo` for its last day; show some answers, the report and what to do next, or print the report."""
    job = load_job("demo")
    ensure_source(job)
    generate = job.source.generate
    days = generate.days if isinstance(generate, DemoCorpus) else list_partitions(job)
    day = str(days[-1]) if days else None
    if as_json:
        run_command("demo", partition_value=day, tasks=None, as_json=True)
        return
    partition, console = choose_partition(job, day), stdout_console()
    console.print(
        f"docmill demo: {', '.join(job.tasks)} of the documents of {partition} in {job.source.uri}",
        soft_wrap=True,
    )
    report = run(job, partition, None)
    show_answers(console, job, partition, limit=DEMO_ROWS_SHOWN)
    print_report(console, job, partition, report)
    console.print(
        f"\nNext: `docmill show demo --partition {day}` for more answers, `docmill ui` for Dagster's pages."
    )
    console.print(
        "Your own documents: copy pipelines/jobs/demo.yaml, change `source`, and `docmill run your.yaml`."
    )
    if report.failed_shards:
        raise typer.Exit(ExitCode.INCOMPLETE)


def run(job: Job, partition: Partition, tasks: list[str] | None) -> Report:
    """Run with progress on stderr, and make the report's page. SIGTERM and Ctrl-C end it cleanly (`stop_signals`)."""
    console = stderr_console()

    def on_stop() -> None:
        console.print(
            f"stopping: what is done is written and kept, at most {STOP_SECONDS:.0f} s; Ctrl-C ends it at once"
        )

    with (
        shown_progress(console) as on_progress,
        StopSignals(on_progress, on_stop=on_stop, impatient=True) as signals,
    ):
        if job.model.compress is not None:
            made = ensure_compressed(
                job,
                partition,
                tell=StepLines(console),
                on_progress=signals.on_progress,
                stop=signals.stop,
            )
            if made.made:
                print_compressed(console, job, made)
        report = run_partition(
            job, partition, tasks=tasks, on_progress=signals.on_progress, stop=signals.stop
        )
    write_report_page(job, partition, report)
    return report
