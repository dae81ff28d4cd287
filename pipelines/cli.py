"""The command line, a file for each command: `docmill run`, `plan`, `tune`, `status`, `replay`, `show`, `report`, ...

Imports of what takes time (Arrow, Dagster, rich) stay inside the commands, so that `docmill --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from docmill.pipelines.console import errors_reported, print_json, stdout_console
from docmill.pipelines.exit_codes import EXIT_CODES_HELP, ExitCode
from docmill.pipelines.logs import configure_logs

app = typer.Typer(
    name="docmill",
    help="Large language models over large piles of documents, offline: Parquet in, Parquet out, and a bill.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobArgument = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job file (path/to/job.yaml) or a name that `docmill jobs` lists."),
]
Partition = Annotated[
    str | None, typer.Option("--partition", "-p", help="The day, as 2026-11-20, or hour, as 2026-11-20-05.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log what happens; -vv: libraries too.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show where an error comes from (or set DOCMILL_DEBUG=1).")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"docmill {metadata.version('docmill')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Options of docmill itself."""


@app.command(epilog=EXIT_CODES_HELP)
def run(
    job: JobArgument,
    partition: Partition = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, as a,b; default: all.")] = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Answer a job's tasks about every document of one partition.

    A run that was ended goes on where it was; running a finished one again replaces its files. Ctrl-C or SIGTERM: what
    is done is written, and what the engine does not end within 10 s is asked again by the next run; a second Ctrl-C
    ends it at once, and loses what no file holds yet.
    """
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug, of_run=True):
        from docmill.pipelines.run_command import run_command

        run_command(job, partition_value=partition, tasks=tasks, as_json=as_json)


@app.command()
def plan(
    job: JobArgument,
    partition: Partition = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, as a,b; default: all.")] = None,
    probe: Annotated[
        int | None,
        typer.Option(
            min=0, help="Measure on so many documents first. Default: only if nothing was measured yet."
        ),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Say what a run would ask, how long it would take and what it would cost, before it runs."""
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.plan_command import plan_command

        plan_command(job, partition_value=partition, tasks=tasks, probe_documents=probe, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def backfill(
    job: JobArgument,
    first: Annotated[
        str | None, typer.Option("--from", help="First day; default: the first there is.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last day; default: the last that is over.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, as a,b; default: all.")] = None,
    max_parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Days at once, an engine each: the pool's limit from now on, for all jobs."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Days that are up to date too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which days, and what they will cost.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is over; exit code 3 if a day failed.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Run the days that are not up to date, as a backfill of the Dagster that `docmill ui` starts."""
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.backfill_command import backfill_command

        backfill_command(
            job,
            first=first,
            last=last,
            tasks=tasks,
            max_parallel=max_parallel,
            everything=everything,
            dry_run=dry_run,
            wait=wait,
            as_json=as_json,
        )


@app.command()
def tune(
    job: JobArgument,
    partition: Partition = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="How long to search, about; loading the model counts.")
    ] = 15.0,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Of each trial. Default: as many as take about 20 seconds.")
    ] = None,
    fp8_kv: Annotated[
        bool, typer.Option("--fp8-kv", help="Also try an FP8 KV cache, which changes answers.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Only take out what was found for the job's model.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Search the engine settings that are the fastest for the job's documents on this device, and keep them.

    Real runs over a sample of one partition. What is reliably faster is stored in the output, by model and device, and
    every run, plan and probe there uses it from then on; what the job's file says itself stays as it is.
    """
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.tune_command import forget_command, tune_command

        if forget:
            forget_command(job, as_json=as_json)
            return
        tune_command(
            job,
            partition_value=partition,
            minutes=minutes,
            documents=documents,
            fp8_kv=fp8_kv,
            as_json=as_json,
        )


@app.command()
def compress(
    job: JobArgument,
    partition: Partition = None,
    recipe: Annotated[
        str | None, typer.Option(help="auto, int8, fp8, w4a16, prune or trim. Default: the job's, or auto.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="What a task's quality may lose, from 0 to 1. Default: the job's, or 0.01."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Documents, half to make it on, half to judge it on. Default: the job's, or 1000."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder or bucket for the model. Default: below the job's output.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also where it has been made already.")] = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Make a smaller model for a job, of its own documents, and publish it if the job's tasks bear it.

    It is judged on documents that it was not made on. A job whose file has `model: {compress: ...}` uses it in every
    run, which also makes it where it is not there yet.
    """
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.compress_command import compress_command

        compress_command(
            job,
            partition_value=partition,
            changes={"recipe": recipe, "max_drop": max_drop, "sample": sample, "out": out},
            again=again,
            as_json=as_json,
        )


@app.command()
def status(
    job: JobArgument,
    partition: Partition = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again and again, until it is finished.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how far a partition is, also while another process runs it."""
    configure_logs()
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.status_command import status_command

        status_command(job, partition_value=partition, watch=watch, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def replay(
    job: JobArgument,
    partition: Partition = None,
    reason: Annotated[
        str | None, typer.Option(help="Only those that failed for this reason; default: all.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Ask again what failed for good, and put the answers into the output. Exit code 3 if some failed again."""
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.replay_command import replay_command

        replay_command(job, partition_value=partition, reason=reason, as_json=as_json)


@app.command()
def new(
    template: Annotated[
        str,
        typer.Argument(
            metavar="TEMPLATE",
            help="translation, topics, sentiment, intents, moderation, summaries or questions (answers as JSON).",
        ),
    ],
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Default: TEMPLATE.yaml.")] = None,
    source: Annotated[
        str, typer.Option(help="Folder of Parquet files, or s3://bucket/folder.")
    ] = "documents",
    output: Annotated[str, typer.Option(help="Where the answers go.")] = "answers",
    id_column: Annotated[str, typer.Option(help="Column that tells the documents apart.")] = "doc_id",
    text_column: Annotated[str, typer.Option(help="Column of their texts.")] = "text",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a job file of your own from a template."""
    configure_logs()
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.new_command import new_command

        new_command(
            template,
            file,
            source=source,
            output=output,
            id_column=id_column,
            text_column=text_column,
            as_json=as_json,
        )


@app.command()
def jobs(as_json: Json = False, debug: Debug = False) -> None:
    """List the jobs that have a name: in the folders of DOCMILL_JOBS, and those that docmill brings."""
    configure_logs()
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.jobs_command import jobs_command

        jobs_command(as_json=as_json)


@app.command()
def show(
    job: JobArgument,
    partition: Partition = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may stand several times.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many documents.")] = 10,
    failed: Annotated[bool, typer.Option("--failed", help="Only documents with a failed task.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show answers beside their documents."""
    configure_logs()
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.show_command import show_command

        show_command(
            job, partition_value=partition, tasks=task, limit=limit, failed_only=failed, as_json=as_json
        )


@app.command()
def report(
    job: JobArgument,
    partition: Partition = None,
    first: Annotated[
        str | None, typer.Option("--from", help="First day; default: the first there is.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day, included; default: the last.")] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write a row for each day and task, as CSV.")
    ] = None,
    parquet: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The same as Parquet; FILE may be an address, as s3://..."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Add up what the finished days of a job did and cost, by task. Of each day its last run counts."""
    configure_logs()
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.report_command import report_command

        report_command(
            job,
            partition_value=partition,
            first=first,
            last=last,
            csv=csv,
            parquet=parquet,
            as_json=as_json,
        )


@app.command()
def doctor(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Also look at this job's model, source and output.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine, and say how to mend what is wrong. Exit code 1 if something that is needed fails."""
    configure_logs()
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.doctor import examine
        from docmill.pipelines.findings import print_findings

        findings = examine(job)
        ok = all(finding.level != "fail" for finding in findings)
        if as_json:
            print_json({"ok": ok, "checks": [finding.as_dict() for finding in findings]})
        else:
            print_findings(stdout_console(), findings)
        if not ok:
            raise typer.Exit(ExitCode.FAILED)


@app.command()
def ui(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 3000, or the next free one.")
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets others in, without a password.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Serve Dagster's pages and run its daemon, over all jobs, until stopped by Ctrl-C; so there is no --json."""
    configure_logs()
    with errors_reported(debug=debug):
        from docmill.pipelines.ui import ui_command

        ui_command(port=port, host=host)


@app.command(epilog=EXIT_CODES_HELP)
def demo(as_json: Json = False, verbose: Verbose = 0, debug: Debug = False) -> None:
    """Run the demo job for its last day, and show its answers and report. Needs no network and no GPU."""
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug, of_run=True):
        from docmill.pipelines.run_command import demo_command

        demo_command(as_json=as_json)


@app.command()
def demo_accuracy(
    seed: Annotated[int, typer.Option(help="Another seed, other documents.")] = 7,
    documents: Annotated[int, typer.Option(min=1)] = 300,
    as_json: Json = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Compare the demo model's answers to the known ones. Exit code 1 when they are worse than they were."""
    configure_logs(verbose)
    with errors_reported(as_json=as_json, debug=debug):
        from docmill.pipelines.accuracy_command import accuracy_command

        if not accuracy_command(seed=seed, num_documents=documents, as_json=as_json):
            raise typer.Exit(ExitCode.FAILED)
