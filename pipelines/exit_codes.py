"""How `docmill` ends: the exit code of every error, and the error as JSON."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from docmill.data.errors import DataError, StorageNotFound, StorageSettingError, StorageUnsupported
from docmill.engine.errors import EngineDied, EngineError
from docmill.engine.pool.errors import PoolLost, WorkerError
from docmill.ops.errors import BudgetSpent, JobError, NoShards, OpsError, Stopped
from docmill.pipelines.logs import without_secrets


class ExitCode(IntEnum):
    """Exit codes, the same for all commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    STORAGE = 4
    ENGINE_DIED = 5
    BUDGET_SPENT = 6
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 unexpected error or failed check; 2 wrong usage, or a job that cannot run as written; "
    "3 done, but some shards could not be used, or some requests failed again; 4 storage unreachable (worth a retry) "
    "or denied; 5 the engine died or no worker is left (worth a retry); 6 the job's budget is spent; 130 interrupted. "
    "After 4, 5 and 130 the same `docmill run` does only the rest; after 6 too, with a higher limit."
)

RESUME = "What is finished is kept: run it again, and it does the rest"


class WrongUsage(OpsError):
    """An option of a command that cannot be meant so."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code that an error ends the command with."""
    if isinstance(error, BudgetSpent):
        return ExitCode.BUDGET_SPENT
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return ExitCode.INTERRUPTED
    if isinstance(error, EngineDied) or (isinstance(error, EngineError) and error.retryable):
        return ExitCode.ENGINE_DIED
    if isinstance(error, WorkerError):
        return ExitCode.FAILED
    if isinstance(error, (OpsError, EngineError, StorageNotFound, StorageUnsupported, StorageSettingError)):
        return ExitCode.USAGE
    if isinstance(error, DataError):
        return ExitCode.STORAGE
    return ExitCode.FAILED


def can_resume(error: BaseException) -> bool:
    """Whether a run that ended so goes on where it was when it is made again."""
    return isinstance(error, (KeyboardInterrupt, Stopped)) or bool(getattr(error, "retryable", False))


def is_expected(error: BaseException) -> bool:
    """Whether docmill knows what it is: its message is written for people, and quotes no document."""
    return isinstance(error, (DataError, OpsError, EngineError, KeyboardInterrupt))


def error_message(error: BaseException, *, of_run: bool = False) -> str:
    """What happened and what to do, for a person; without secrets. `of_run`: it ended a run over a partition."""
    if of_run and can_resume(error) and not isinstance(error, (Stopped, PoolLost)):  # those say it themselves
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else error_message(error)
        return f"{what}. {RESUME}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again"
    if isinstance(error, BudgetSpent):
        return f"{error}. Raise the limit first"
    if isinstance(error, JobError):
        lines = [f"job {error.job} cannot run as written:", *(f"  {problem}" for problem in error.problems)]
        return without_secrets("\n".join(lines))
    if is_expected(error):
        return without_secrets(str(error))
    return without_secrets(
        f"unexpected {type(error).__name__}: {error}. Run again with --debug for the place"
    )


def error_object(error: BaseException, *, of_run: bool = False) -> dict[str, Any]:
    """The error for programs: what `--json` prints under the key `error`."""
    described: dict[str, Any] = {
        "kind": type(error).__name__,
        "message": error_message(error, of_run=of_run),
        "exit_code": int(exit_code_of(error)),
        "retryable": bool(getattr(error, "retryable", False)),
    }
    if of_run:
        described["resumable"] = can_resume(error)
    if isinstance(error, Stopped):
        described["num_units_left"] = error.num_units_left
    if isinstance(error, JobError):
        described["problems"] = [without_secrets(problem) for problem in error.problems]
    if isinstance(error, NoShards):
        described["partitions"] = error.partitions
    return described
