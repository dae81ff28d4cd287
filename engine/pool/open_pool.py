"""The one place that turns `pool:` of a job into a pool."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

from docmill.engine.pool.config import PoolConfig, check_address
from docmill.engine.pool.errors import PoolConfigError
from docmill.engine.pool.inline_pool import InlinePool
from docmill.engine.pool.types import Pool


def open_pool(
    config: PoolConfig, *, tensor_parallel_size: int, device: Literal["auto", "cpu", "cuda"]
) -> Pool:
    """The pool of a job; nothing is started before its `run`. Raises `PoolConfigError`."""
    if config.kind == "inline":
        return InlinePool()
    if importlib.util.find_spec("ray") is None:
        raise PoolConfigError("`pool: {kind: ray}` needs Ray: pip install 'docmill[ray]'")
    gpus = config.gpus_per_worker
    if device == "cpu" and gpus:
        raise PoolConfigError(f"pool.gpus_per_worker is {gpus:g}, but engine.device is cpu")
    if tensor_parallel_size > 1 and gpus not in (None, 0, tensor_parallel_size):
        raise PoolConfigError(
            f"pool.gpus_per_worker is {gpus:g}, but a worker with engine.tensor_parallel_size "
            f"{tensor_parallel_size} needs as many GPUs; leave it out"
        )
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    try:
        address = address and check_address(address)
    except ValueError as error:
        raise PoolConfigError(f"RAY_ADDRESS: {error}") from None
    from docmill.engine.pool.ray_pool import RayPool, WorkerResources

    assert config.workers is not None  # PoolConfig has checked it
    resources = WorkerResources(
        num_gpus=0.0 if device == "cpu" else gpus,
        num_cpus=config.cpus_per_worker,
        tensor_parallel_size=tensor_parallel_size,
    )
    return RayPool(
        workers=config.workers,
        resources=resources,
        address=address,
        max_worker_restarts=config.max_worker_restarts,
        start_timeout_seconds=config.start_timeout_seconds,
    )
