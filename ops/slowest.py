"""The documents that the engine took longest over: a few, by their ids. Their texts stand only in the source."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from docmill.data.records import Usage
from docmill.ops.report import SlowDocument
from docmill.ops.unit_answers import Place

MOST_SLOWEST = 10


class SlowestDocuments:
    """Of one worker; holds `MOST_SLOWEST` of them. Owned by one thread."""

    def __init__(self) -> None:
        self._found: list[SlowDocument] = []
        self._least = 0.0  # seconds that one must have taken to be among them

    def note(self, place: Place, task: str, seconds: float, usage: Usage) -> None:
        """A task has been answered; `seconds` from its first request in the engine to its last answer."""
        if seconds <= self._least:
            return
        document = SlowDocument(
            doc_id=place.doc_id,
            shard=place.shard,
            row=place.row,
            task=task,
            seconds=round(seconds, 3),
            prompt_tokens=usage.num_prompt_tokens,
            output_tokens=usage.num_output_tokens,
        )
        self._found = slowest_of([*self._found, document])
        if len(self._found) == MOST_SLOWEST:
            self._least = self._found[-1].seconds

    def figures(self) -> list[dict[str, Any]]:
        """For the report, the slowest first."""
        return [document.model_dump() for document in self._found]


def slowest_of(documents: Iterable[SlowDocument]) -> list[SlowDocument]:
    """The slowest of several workers' slowest, the slowest first."""
    return heapq.nlargest(MOST_SLOWEST, documents, key=lambda document: document.seconds)
