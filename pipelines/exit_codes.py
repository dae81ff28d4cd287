"""How `docmill` ends: the exit code of every error, and the error as JSON."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from docmill.data.errors import DataError, StorageNotFound, StorageUnsupported
from docmill.engine.errors import EngineDied, EngineError
from docmill.ops.errors import JobError, NoShards, OpsError
from docmill.pipelines.logs import without_secrets


class ExitCode(IntEnum):
    """Exit codes, the same for all commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SHARDS_FAILED = 3
    STORAGE = 4
    ENGINE_DIED = 5
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 unexpected error or failed check; 2 wrong usage, or a job that cannot run as written; "
    "3 done, but some shards could not be used; 4 storage unreachable or denied (worth a retry); 5 the engine died; "
    "130 interrupted."
)


class WrongUsage(OpsError):
    """An option of a command that cannot be meant so."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code that an error ends the command with."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, EngineDied):
        return ExitCode.ENGINE_DIED
    if isinstance(error, (OpsError, EngineError, StorageNotFound, StorageUnsupported)):
        return ExitCode.USAGE
    if isinstance(error, DataError):
        return ExitCode.STORAGE
    return ExitCode.FAILED


def error_message(error: BaseException) -> str:
    """What happened and what to do, for a person; without secrets."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; files that were complete by then stay; run the same command again"
    if isinstance(error, JobError):
        lines = [f"job {error.job} cannot run as written:", *(f"  {problem}" for problem in error.problems)]
        return without_secrets("\n".join(lines))
    if isinstance(error, (DataError, OpsError, EngineError)):
        return without_secrets(str(error))
    return without_secrets(
        f"unexpected {type(error).__name__}: {error}. Run again with --debug for the place"
    )


def error_object(error: BaseException) -> dict[str, Any]:
    """The error for programs: what `--json` prints under the key `error`."""
    described: dict[str, Any] = {
        "kind": type(error).__name__,
        "message": error_message(error),
        "exit_code": int(exit_code_of(error)),
        "retryable": bool(getattr(error, "retryable", False)),
    }
    if isinstance(error, JobError):
        described["problems"] = [without_secrets(problem) for problem in error.problems]
    if isinstance(error, NoShards):
        described["partitions"] = error.partitions
    return described
