"""What a run is expected to ask, to take and to cost: `estimate.json`, made by `ops.estimate`."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from docmill.data import storage
from docmill.data.errors import StorageError
from docmill.ops.near_figures import NearDuplicates


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Range(_Figures):
    """What is expected, and between what it will probably be."""

    low: float
    expected: float
    high: float

    def plus(self, other: Range) -> Range:
        """The sum, each bound with its like."""
        return Range(
            low=self.low + other.low, expected=self.expected + other.expected, high=self.high + other.high
        )

    def times(self, factor: float) -> Range:
        """All three."""
        return Range(low=self.low * factor, expected=self.expected * factor, high=self.high * factor)


class TaskEstimate(_Figures):
    """One task. Tokens are those that engines will compute or find in their prefix cache."""

    kind: str
    requests: int
    duplicate_requests: int  # of them, answered by an equal request of another row
    reused_requests: int  # of them, answered in a run that was finished before
    near_duplicate_requests: int = 0  # of them, answered by a request of the row that theirs is like
    prompt_tokens: int
    cached_tokens: int  # of them, that the prefix cache will have
    output_tokens: int
    usd: Range | None = None


class Estimate(_Figures):
    """What a run over the partition would do and cost."""

    job: str
    partition: str
    made_at: datetime
    plan: str  # its id
    documents: int
    counted_documents: int  # of them, tokenised for this; the others are taken to be like them
    shards: int
    failed_shards: int
    not_asked_documents: int  # empty, refused, or with an id that came before
    duplicate_documents: int
    reused_documents: int
    near_duplicates: NearDuplicates | None = None  # where the job asks for them
    tasks: dict[str, TaskEstimate]
    device: str | None  # None: nothing is known of the engine's speed
    measured_at: datetime | None
    engines: int
    engine_seconds: Range | None  # of all engines together, with loading, planning and writing: what is paid
    wall_seconds: Range | None
    usd_per_hour: float | None
    usd: Range | None

    def tokens(self, name: str) -> int:
        """`prompt_tokens`, `cached_tokens` or `output_tokens` of all tasks."""
        return sum(int(getattr(task, name)) for task in self.tasks.values())


def read_estimate(uri: str, *, plan_id: str, after: datetime | None = None) -> Estimate | None:
    """The last one that was made for this very plan, after it was last finished; None where there is none.

    Never raises because of the store: a run that is done must not fail for a comparison.
    """
    try:
        estimate = Estimate.model_validate_json(storage.read_bytes(uri))
    except (StorageError, ValidationError):
        return None
    is_older = after is not None and estimate.made_at < after
    return None if is_older or estimate.plan != plan_id else estimate
