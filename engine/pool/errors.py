"""Errors of a pool. What a work function raises keeps its own type and is not here.

EngineError
└── PoolError
    ├── PoolConfigError    the job asks for what is not there: Ray itself, GPUs, a token
    ├── PoolUnreachable    the Ray cluster does not answer (retryable)
    ├── PoolLost           no worker is left (retryable: a later run does what is still open)
    └── WorkerError        a worker failed with an error that could not be brought here as it was
"""

from __future__ import annotations

from collections.abc import Sequence

from docmill.engine.errors import EngineError
from docmill.engine.pool.types import LostWorker


class PoolError(EngineError):
    """Base of what a pool can raise."""


class PoolConfigError(PoolError):
    """The job's `pool:` asks for what is not there."""


class PoolUnreachable(PoolError):
    """The Ray cluster at `address` does not answer."""

    retryable = True

    def __init__(self, address: str, cause: object):
        super().__init__(
            f"no Ray cluster answers at {address}: {cause}. docmill runs on a machine of the cluster (`ray start "
            f"--address={address}`), and a cluster with token authentication wants RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN or ~/.ray/auth_token there"
        )
        self.address = address


class PoolLost(PoolError):
    """Every worker was lost. Carries `lost`, with a reason for each."""

    retryable = True

    def __init__(self, lost: Sequence[LostWorker]):
        last = f"; the last, {lost[-1].name}: {lost[-1].reason}" if lost else ""
        super().__init__(
            f"no worker is left ({len(lost)} lost{last}). What they finished is kept: run the same job again, "
            f"and it does the rest"
        )
        self.lost = tuple(lost)


class WorkerError(PoolError):
    """A worker failed as a whole. Carries `worker`, its name; `retryable` is that of the worker's own error."""

    def __init__(self, worker: str, message: str, *, retryable: bool = False):
        super().__init__(f"worker {worker} failed: {message}")
        self.worker = worker
        self.retryable = retryable
