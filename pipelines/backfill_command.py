"""`docmill backfill`: a range of days, or hours, through Dagster, or what it would cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from docmill.ops.estimate import estimate_partition
from docmill.ops.job import Job
from docmill.ops.sources import ensure_source
from docmill.pipelines.backfill import (
    BackfillState,
    Days,
    choose_backfill_days,
    daemon_is_running,
    launch,
    open_instance,
    set_engines,
    wait_for,
)
from docmill.pipelines.choices import choose_days, choose_tasks
from docmill.pipelines.console import print_json, stderr_console, stdout_console, stdout_kept_clean
from docmill.pipelines.exit_codes import ExitCode, WrongUsage
from docmill.pipelines.job_files import load_all_jobs, load_job

if TYPE_CHECKING:
    from docmill.ops.expected import Estimate


def backfill_command(
    job_name: str,
    *,
    first: str | None,
    last: str | None,
    tasks: str | None,
    max_parallel: int | None,
    everything: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Find the days, then price or launch them. Exit code 3 where a day failed, or nobody goes on with them."""
    job = load_job(job_name)
    if job.source.partition_key is None:
        raise WrongUsage(
            f"job {job.name!r} is not partitioned (source.partition_key is null): use `docmill run`"
        )
    chosen = choose_tasks(job, tasks)
    first, last = choose_days(job, None, first, last)
    ensure_source(job)
    days = choose_backfill_days(job, first=first, last=last, tasks=chosen, everything=everything)
    found: dict[str, Any] = {"job": job.name, "days": asdict(days)}
    if not as_json:
        for line in _day_lines(days, f"{job.source.period.name}s"):
            stdout_console().print(line, soft_wrap=True)
    if dry_run:
        with stdout_kept_clean():
            found["estimates"] = _price(job, days.to_run, chosen)
        if not as_json:
            _print_price(found["estimates"])
    elif days.to_run:
        _known_to_dagster(job, job_name)
        found["backfill"] = _launch(job, days.to_run, chosen, max_parallel=max_parallel, wait=wait)
    if as_json:
        print_json(found)
    state = found.get("backfill", {}).get("state")
    if state is not None and state["succeeded"] < state["total"]:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _day_lines(days: Days, called: str) -> list[str]:
    lines = [f"{called:10} {len(days.to_run):,} to run{_ends(days.to_run)}"]
    if days.up_to_date:
        lines.append(
            f"           {len(days.up_to_date):,} up to date{_ends(days.up_to_date)}: left out (--all)"
        )
    if days.not_over:
        lines.append(f"           {len(days.not_over):,} not over yet{_ends(days.not_over)}: left out")
    return lines


def _ends(days: list[str]) -> str:
    return f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}" if days else ""


def _known_to_dagster(job: Job, job_name: str) -> None:
    """The daemon loads jobs by their names, not by the path that this command was given."""
    for file, loaded in load_all_jobs().items():
        if isinstance(loaded, Job) and loaded.name == job.name:
            if loaded == job:
                return
            raise WrongUsage(
                f"Dagster knows another job {job.name!r}, that of {file}; name that one, or take it away"
            )
    raise WrongUsage(
        f"Dagster does not know {job_name}: put the file into a folder of DOCMILL_JOBS, for this command and for "
        "`docmill ui` alike"
    )


def _price(job: Job, days: list[str], tasks: list[str] | None) -> list[dict[str, Any]]:
    priced = []
    for day in days:
        estimate: Estimate = estimate_partition(job, job.partition(day), tasks=tasks)
        stderr_console().print(f"{day}: counted", soft_wrap=True)
        usd, seconds = estimate.usd, estimate.engine_seconds
        priced.append(
            {
                "day": day,
                "documents": estimate.documents,
                "requests": sum(task.requests for task in estimate.tasks.values()),
                "engine_seconds": seconds.model_dump() if seconds else None,
                "usd": usd.model_dump() if usd else None,
            }
        )
    return priced


def _print_price(estimates: list[dict[str, Any]]) -> None:
    console = stdout_console()
    for each in estimates:
        console.print(f"{each['day']} {each['documents']:,} documents, {_usd(each['usd'])}", soft_wrap=True)
    known = [each["usd"] for each in estimates if each["usd"]]
    if estimates and len(known) == len(estimates):
        total = {name: sum(usd[name] for usd in known) for name in ("low", "expected", "high")}
        console.print(f"in all     {_usd(total)}")
    elif estimates:
        console.print(
            "in all     unknown: run a day once, or `docmill plan` it, and name its price (prices.usd_per_hour)"
        )


def _usd(usd: dict[str, float] | None) -> str:
    return f"{usd['expected']:.4f} USD ({usd['low']:.4f} to {usd['high']:.4f})" if usd else "price unknown"


def _launch(
    job: Job, days: list[str], tasks: list[str] | None, *, max_parallel: int | None, wait: bool
) -> dict[str, Any]:
    console, called = stderr_console(), f"{job.source.period.name}s"
    with open_instance() as instance:
        if max_parallel is not None:
            set_engines(instance, max_parallel)
            console.print(
                f"from now on, {max_parallel} {called} at once, of all jobs (the pool docmill_engine)"
            )
        is_running = daemon_is_running(instance)
        backfill_id = launch(instance, job, days, tasks)
        console.print(f"backfill   {backfill_id}: {len(days):,} {called} in Dagster's hands", soft_wrap=True)
        if not is_running:
            console.print("no Dagster daemon runs here: start `docmill ui`, and it begins", soft_wrap=True)
        if not (wait and is_running):
            return {"id": backfill_id, "state": None}

        def show(state: BackfillState) -> None:
            failed = f", {state.failed} failed" if state.failed else ""
            console.print(
                f"{state.succeeded} of {state.total} {called} done, {state.running} running{failed}",
                soft_wrap=True,
            )

        state = wait_for(instance, backfill_id, len(days), show)
        if not state.is_over:
            console.print("Dagster's daemon has ended; start `docmill ui`, and it goes on", soft_wrap=True)
        return {"id": backfill_id, "state": asdict(state)}
