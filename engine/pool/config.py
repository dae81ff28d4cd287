"""`pool:` of a job's YAML: who runs the workers. Unknown keys are errors, and so are Ray's keys without Ray."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_ADDRESS = re.compile(r"auto|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")


def check_address(address: str) -> str:
    """The address as it came. Raises `ValueError` with what was expected."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(
            f"{address!r} is no address of a Ray cluster's head; expected host:port (usually port 6379), or auto for "
            f"the cluster that this machine is part of. ray:// and http:// are for Ray's own clients"
        )
    return address


class PoolConfig(BaseModel):
    """`inline`: one worker in this process. `ray`: several, on this machine's or a cluster's GPUs.

    There is no pool of plain local processes: two `docmill run` of the same partition already share its work through
    the ledger, and Ray on one machine starts in ten seconds and also restarts what dies.

    On a cluster docmill and the job's model have to be there on every machine, and `docmill run` starts on one of
    them. Each worker gets the runner's variables AWS_*, DOCMILL_*, HF_* and VLLM_*; Ray logs none of them. A cluster
    with token authentication wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) for the runner; a
    Ray that docmill starts itself needs nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["inline", "ray"] = "inline"
    workers: Annotated[int, Field(gt=0)] | None = None
    address: str | None = None
    """null: RAY_ADDRESS, else a Ray of our own on this machine."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """All GPUs of one worker; a fraction shares one. null: engine.tensor_parallel_size, or 0 on a CPU."""
    cpus_per_worker: Annotated[int, Field(gt=0)] | None = None
    """Threads for the model on a CPU. null: an equal part of this machine's for a Ray of our own, else 1."""
    max_worker_restarts: Annotated[int, Field(ge=0)] = 3
    """One after the other, for each worker; ten good minutes count from zero again."""
    start_timeout_seconds: Annotated[float, Field(gt=0)] = 600
    """How long to wait for room while no worker runs; clusters that grow need minutes."""

    @model_validator(mode="after")
    def _check(self) -> PoolConfig:
        if self.kind == "inline":
            # What equals its default may stand there: so does everything in a job that was written out whole.
            if keys := sorted(self.model_dump(exclude={"kind"}, exclude_defaults=True)):
                raise ValueError(
                    f"{', '.join(keys)}: only for `kind: ray`; an inline pool is one worker in this process"
                )
            return self
        if self.workers is None:
            raise ValueError("`kind: ray` needs `workers`: how many engines run at the same time")
        if self.address is not None:
            check_address(self.address)
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_worker: {gpus} is neither a part of one GPU nor whole GPUs")
        return self
