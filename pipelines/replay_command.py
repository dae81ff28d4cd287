"""`docmill replay`: what failed for good is asked again, and the output mended."""

from __future__ import annotations

from dataclasses import asdict

import typer

from docmill.data.dead_letters import read_dead_letters
from docmill.data.layout import Layout
from docmill.data.manifest import read_manifest
from docmill.data.records import Partition
from docmill.ops.history import read_report
from docmill.ops.job import Job
from docmill.ops.replay import Replayed, replay
from docmill.pipelines.choices import choose_partition
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.exit_codes import ExitCode
from docmill.pipelines.job_files import load_job
from docmill.pipelines.report_page import write_report_page
from docmill.pipelines.run_progress import shown_progress


def replay_command(job_name: str, *, partition_value: str | None, reason: str | None, as_json: bool) -> None:
    """Replay, say what came of it, and end with 3 if something that was asked failed again."""
    job = load_job(job_name)
    partition = choose_partition(job, partition_value)
    if as_json:
        with stdout_kept_clean():
            done = _replay(job, partition, reason)
        print_json(asdict(done))
    else:
        done = _replay(job, partition, reason)
        stdout_console().print(_summary(job, partition, done), soft_wrap=True)
    if done.num_repaired < done.num_asked:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _replay(job: Job, partition: Partition, reason: str | None) -> Replayed:
    layout = Layout(job.output.uri, partition)
    if reason is None and read_manifest(layout.manifest) and not read_dead_letters(layout.dead_letters):
        return Replayed(0, 0, 0)  # a night without failures is no reason to fail
    with shown_progress(stderr_console()) as on_progress:
        done = replay(job, partition, reason=reason, on_progress=on_progress)
    if report := read_report(job.output.uri, partition):
        write_report_page(job, partition, report)
    return done


def _summary(job: Job, partition: Partition, done: Replayed) -> str:
    name = f"{job.name}, {partition}"
    if not done.num_asked:
        return f"{name}: nothing failed for good, so there is nothing to replay"
    left = f"{done.num_left:,} left" if done.num_left else "none left"
    return f"{name}: {done.num_asked:,} asked again, {done.num_repaired:,} repaired, {left}"
