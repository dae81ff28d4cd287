"""What an engine's process and its parent say to one another, pickled over a socket pair.

Parent to child: one `Opening`, then lists of `Request`, then None to stop. Child to parent: `Answers` all the time (at
least one a second, empty while nothing is done), and one `Loaded`, `LoadFailed` or `Died` when it comes to that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from docmill.engine.errors import EngineError
from docmill.engine.types import Completion, DeathKind, EngineInfo, Load


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open the engine. The callable is pickled by itself: unpickling it may need `sys_path`."""

    open_engine: bytes
    sys_path: list[str]
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Beat:
    """How far the engine is. No new steps with requests in flight is a hang; no beats at all a stopped process."""

    num_steps: int = 0
    num_tokens: int = 0
    busy_seconds: float = 0.0
    load: Load = field(default_factory=Load)
    memory_bytes: int = 0  # private and writable, what `memory_bytes` of the Opening limits


@dataclass(frozen=True, slots=True)
class Answers:
    """What has finished since the last message, and how far the engine is."""

    completions: list[Completion]
    beat: Beat


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model answers."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model or the settings are no good; the process ends."""

    error: EngineError


@dataclass(frozen=True, slots=True)
class Died:
    """The last words of an engine that failed; the process ends."""

    kind: DeathKind
    message: str
