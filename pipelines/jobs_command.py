"""`docmill jobs`: what can be called by name."""

from __future__ import annotations

import typer

from docmill.ops.errors import JobError
from docmill.ops.job import Job
from docmill.pipelines.console import print_json, stdout_console
from docmill.pipelines.exit_codes import ExitCode, error_message, error_object
from docmill.pipelines.job_files import JobFile, load_all_jobs


def jobs_command(*, as_json: bool) -> None:
    """List all jobs; those whose file cannot be used stand with their problems, and end the command with 2."""
    loaded = load_all_jobs()
    if as_json:
        print_json(
            [
                {"name": file.name, "file": str(file.path)}
                | (
                    error_object(job) | {"usable": False}
                    if isinstance(job, JobError)
                    else {
                        "usable": True,
                        "job": job.name,
                        "description": job.description,
                        "source": job.source.uri,
                        "output": job.output.uri,
                        "tasks": list(job.tasks),
                        "partition_key": job.source.partition_key,
                        "model": job.model.source,
                    }
                )
                for file, job in loaded.items()
            ]
        )
    else:
        _print_table(loaded)
    if any(isinstance(job, JobError) for job in loaded.values()):
        raise typer.Exit(ExitCode.USAGE)


def _print_table(loaded: dict[JobFile, Job | JobError]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = stdout_console()
    table = Table(box=SIMPLE_HEAD)
    for name in ("job", "description", "tasks", "partition by", "source"):
        table.add_column(name, overflow="fold")
    for file, job in loaded.items():
        if not isinstance(job, JobError):
            by = job.source.partition_key or "-"
            table.add_row(file.name, job.description, ", ".join(job.tasks), by, job.source.uri)
    console.print(table)
    for job in loaded.values():
        if isinstance(job, JobError):
            console.print(error_message(job), style="red", soft_wrap=True)
