"""Did memory run out? Read from an exception, or, where the kernel ended the process, from the kernel's own counter.

For `engine_process` and `vllm_engine`: an engine that ran out of memory goes on with smaller batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# What torch, CUDA and the C library say; the exceptions' types alone would miss plain RuntimeErrors.
PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this exception, or one that led to it, says so."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # By name: torch's class cannot be had without importing torch.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        text = str(error).lower()
        if any(phrase in text for phrase in PHRASES):
            return True
        error = error.__cause__ or error.__context__
    return False


def num_oom_kills(files: Iterable[str] | None = None) -> int:
    """How many processes the kernel has killed for memory: in this process's cgroup, else on the machine.

    Compare two readings; the number itself starts anywhere.
    """
    for name in files if files is not None else [*_cgroup_files(), "/proc/vmstat"]:
        try:
            lines = Path(name).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.isdigit():
                return int(value)
    return 0


def _cgroup_files() -> Iterable[str]:
    """Where this process's cgroup counts its kills: version 2, then version 1, with and without a namespace."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield f"/sys/fs/cgroup{path.rstrip('/')}/memory.events"
        elif "memory" in controllers.split(","):
            yield f"/sys/fs/cgroup/memory{path.rstrip('/')}/memory.oom_control"
            yield "/sys/fs/cgroup/memory/memory.oom_control"
