"""How far a run is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a run, taken about once a second."""

    stage: str  # "planning", "loading model", "running", "asking again" (a replay), "writing"
    num_documents_done: int
    num_documents_total: int | None  # None until every shard has been opened
    num_output_tokens: int
    num_prompt_tokens: int
    seconds: float  # since the run started, without loading the model

    @property
    def tokens_per_second(self) -> float:
        """Prompt and output tokens together."""
        return (self.num_prompt_tokens + self.num_output_tokens) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Time left at the rate so far; None while it cannot be told."""
        if not self.num_documents_total or not self.num_documents_done:
            return None
        return self.seconds / self.num_documents_done * (self.num_documents_total - self.num_documents_done)


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """For callers that show nothing."""
