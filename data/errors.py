"""Errors of the data layer.

DataError
├── StorageSettingError     an environment variable about storage holds nothing usable
├── StorageError            the store did not do what was asked
│   ├── StorageUnreachable  no answer: worth trying again later (retryable)
│   ├── StorageDenied       the store knows us not, or forbids it
│   ├── StorageUnsupported  nothing is installed that serves this kind of URI
│   └── StorageNotFound     bucket, folder or file does not exist
├── NoAnswers               no finished run of the partitions asked for has answered the task
└── ShardError              one Parquet file cannot be used; the other shards can
    ├── ShardCorrupt        not readable as Parquet
    └── ShardSchemaError    a column is missing or of a type that cannot be used
"""

from __future__ import annotations


class DataError(Exception):
    """Base of what a bad file or store can cause. `retryable` says whether the same call may work later."""

    retryable = False


class StorageSettingError(DataError):
    """A variable of the environment that steers storage holds something else than it may."""


class StorageError(DataError):
    """A store failed. Carries the `uri` that was asked for, and the `message` without it."""

    def __init__(self, uri: str, message: str):
        super().__init__(f"{uri}: {message}")
        self.uri = uri
        self.message = message


class StorageUnreachable(StorageError):
    """The store gave no answer (name, port, network, or it is overloaded). `reason` is the cause in a word."""

    retryable = True

    def __init__(self, uri: str, message: str, *, reason: str = "no answer"):
        super().__init__(uri, message)
        self.reason = reason


class StorageDenied(StorageError):
    """The store refused the credentials, or the credentials do not allow this."""


class StorageUnsupported(StorageError):
    """No driver for the URI's protocol is installed."""


class StorageNotFound(StorageError):
    """The bucket, folder or file does not exist."""


class NoAnswers(DataError):
    """There is nothing to read. Carries the `task`, and the `tasks` of which there are answers."""

    def __init__(self, output_uri: str, task: str, tasks: list[str]):
        there = (
            f"there are those of {', '.join(tasks)}" if tasks else "no run of these partitions is finished"
        )
        super().__init__(f"{output_uri}: no finished answers of task {task!r}; {there}")
        self.task, self.tasks = task, tasks


class ShardError(DataError):
    """One shard cannot be used. Carries `shard_uri`; the job reports it and goes on with the others."""

    def __init__(self, shard_uri: str, message: str):
        super().__init__(f"{shard_uri}: {message}")
        self.shard_uri = shard_uri


class ShardCorrupt(ShardError):
    """The file is not readable as Parquet."""


class ShardSchemaError(ShardError):
    """A column the job names is missing, or has a type that holds no text or id."""


# What concerns one file of the source: it is reported, and the run goes on with the others. Any other failure of a
# store (no answer, no more file handles, a disk's error) is no file's fault: the run ends, to be run again.
SHARD_ERRORS = (ShardError, StorageNotFound, StorageDenied)
