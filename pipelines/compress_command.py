"""`docmill compress`: a smaller model for a job, of its own documents, and what it costs in quality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.engine.compressed_models import checkpoint_uri
from docmill.engine.compression.config import CompressConfig
from docmill.ops.compression.compress_job import compress_job
from docmill.ops.compression.made import Compressed, config_of, find_made, judged_by
from docmill.ops.errors import Stopped
from docmill.ops.job import Job
from docmill.ops.sources import ensure_source
from docmill.pipelines.choices import choose_partition
from docmill.pipelines.compression_text import print_compressed
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.exit_codes import WrongUsage
from docmill.pipelines.job_files import load_job
from docmill.pipelines.job_problems import describe_invalid
from docmill.pipelines.run_progress import StepLines, shown_progress
from docmill.pipelines.stop_signals import StopSignals


def compress_command(
    job_name: str,
    *,
    partition_value: str | None,
    changes: Mapping[str, Any],
    again: bool,
    as_json: bool,
) -> None:
    """Make it, or find it made; print what it is."""
    job = load_job(job_name)
    wanted = with_changes(job, changes)
    ensure_source(wanted)
    partition = choose_partition(wanted, partition_value)
    if as_json:
        with stdout_kept_clean():
            compressed = _compress(wanted, partition, again=again)
        print_json(_as_json(wanted, compressed))
        return
    console = stdout_console()
    compressed = _compress(wanted, partition, again=again)
    print_compressed(console, wanted, compressed)
    if wanted.model != job.model:
        console.print(
            f"to use     model: {{compress: {_settings(wanted)}}} in the job's file", soft_wrap=True
        )


def with_changes(job: Job, changes: Mapping[str, Any]) -> Job:
    """The job with a `model.compress` of these settings, where they are not None. Raises `WrongUsage`."""
    from pydantic import ValidationError

    before = job.model.compress.model_dump(exclude_unset=True) if job.model.compress else {}
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("out") and "://" not in given["out"]:
        given["out"] = str(
            Path(given["out"]).expanduser().absolute()
        )  # in a job file it is from that file's folder
    values = {"out": Layout.models(job.output.uri)} | before | given
    try:
        compress = CompressConfig.model_validate(values)
    except ValidationError as error:
        problems = describe_invalid(error, set())
        raise WrongUsage("\n".join(f"--{problem.replace('_', '-', 1)}" for problem in problems)) from error
    return job.model_copy(update={"model": job.model.model_copy(update={"compress": compress})})


def _compress(job: Job, partition: Partition, *, again: bool) -> Compressed:
    if not again and (found := find_made(job)) is not None and found.model.judged == judged_by(job):
        return found
    console = stderr_console()
    config = config_of(job)
    console.print(f"compressing with recipe {config.recipe}; the answers of its runs are thrown away")

    def on_stop() -> None:
        console.print("stopping: nothing is published")

    with (
        shown_progress(console) as on_progress,
        StopSignals(on_progress, on_stop=on_stop, impatient=True) as signals,
    ):
        try:
            return compress_job(
                job, partition, tell=StepLines(console), on_progress=signals.on_progress, stop=signals.stop
            )
        except Stopped as error:  # it tells how to finish a run, and there is none to finish
            raise KeyboardInterrupt from error


def _settings(job: Job) -> str:
    values = {"recipe": "auto"} | config_of(job).model_dump(mode="json", exclude_defaults=True)
    if values["out"] == Layout.models(job.output.uri):
        del values["out"]
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=10_000).strip()


def _as_json(job: Job, compressed: Compressed) -> dict[str, Any]:
    report = compressed.report
    return {
        **report.model_dump(mode="json"),
        "made": compressed.made,
        "checkpoint": checkpoint_uri(config_of(job), compressed.model),
        "size_ratio": report.size_ratio,
        "speed_ratio": report.speed_ratio,
    }
