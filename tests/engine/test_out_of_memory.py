"""What counts as memory that ran out."""

from __future__ import annotations

from pathlib import Path

import pytest

from docmill.engine.batch_limits import lowered
from docmill.engine.config import EngineConfig
from docmill.engine.out_of_memory import is_out_of_memory, num_oom_kills


class OutOfMemoryError(RuntimeError):
    """Of the name that torch's has."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("anything"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("the memory of the model"), False),
        (None, False),
    ],
)
def test_it_is_read_from_the_type_or_the_words(error: BaseException | None, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_it_may_stand_behind_another_error() -> None:
    error = RuntimeError("the worker failed")
    error.__cause__ = MemoryError()
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "content",
    [
        "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 0\n",  # cgroup 2, memory.events
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",  # cgroup 1, memory.oom_control
        "nr_free_pages 9\noom_kill 3\n",  # /proc/vmstat
    ],
)
def test_the_kernels_counter_is_found_in_each_of_its_places(content: str, tmp_path: Path) -> None:
    (tmp_path / "counter").write_text(content)
    assert num_oom_kills([str(tmp_path / "absent"), str(tmp_path / "counter")]) == 3


def test_this_machines_counter_can_be_read() -> None:
    assert num_oom_kills() >= 0
    assert num_oom_kills(["/proc/vmstat"]) >= 0


def test_limits_are_halved_down_to_a_floor_and_extra_does_not_undo_it() -> None:
    config = EngineConfig(max_num_seqs=6, extra={"max_num_batched_tokens": 700, "block_size": 16})
    seen = []
    while (less := lowered(config, None)) is not None:
        config, limits = less
        seen.append((limits["max_num_seqs"], limits["max_num_batched_tokens"]))
        assert (config.max_num_seqs, config.max_num_batched_tokens) == seen[-1]
    assert seen == [(3, 350), (1, 256)]
    assert config.extra == {"block_size": 16}
