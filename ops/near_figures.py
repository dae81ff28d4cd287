"""What is known of a partition's near-duplicates: in the plan's estimate and in the report."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NearExample(_Figures):
    """Two documents by their ids. Their texts stand nowhere but in the source."""

    document: str
    representative: str
    similarity: float


class NearDuplicates(_Figures):
    """Documents that are like an earlier one, which represents them."""

    reuse: Literal["report", "answers"]  # answers: they take its answer
    similarity: float  # the least
    documents: int  # rows, those with the very text of one of them included
    groups: int
    largest_group: int  # rows, the representative's included
    work_share: float  # of all work on different texts, as planning estimates it: what reuse spares at most
    usd: float | None = None  # what it would spare, or has spared, at what the other requests cost
    examples: list[NearExample]
