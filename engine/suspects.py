"""Finds the requests that kill the engine, by running suspects without the others and halving them at every death.

Used by `supervised_engine`, which tells it what was in flight at each death and asks what may run next. A request is a
suspect once it was there at two deaths: one death may be anybody's. It is the culprit when it was alone at two deaths:
machines and people kill engines too, and once that may hit whoever runs alone just then. With n suspects and one
culprit among them that takes log2(n) + 1 further deaths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

DEATHS_OF_A_SUSPECT = 2
DEATHS_ALONE_OF_A_CULPRIT = 2


class Suspects:
    """Deaths by request, and the groups that are to run by themselves. Owned by one thread."""

    def __init__(self) -> None:
        self._num_deaths: Counter[str] = Counter()
        self._num_deaths_alone: Counter[str] = Counter()
        self._groups: list[list[str]] = []  # the last one runs

    @property
    def group(self) -> Sequence[str] | None:
        """The requests to run without any others; None when all may run."""
        return self._groups[-1] if self._groups else None

    @property
    def num_under_suspicion(self) -> int:
        """Requests that have yet to be cleared."""
        return sum(map(len, self._groups))

    def num_deaths(self, request_id: str) -> int:
        """At how many deaths the request was in flight."""
        return self._num_deaths[request_id]

    def finished(self, request_id: str) -> bool:
        """A request has its completion. Returns whether the group that may run has changed."""
        self._num_deaths.pop(request_id, None)
        self._num_deaths_alone.pop(request_id, None)
        if not self._groups or request_id not in self._groups[-1]:
            return False
        self._groups[-1].remove(request_id)
        if self._groups[-1]:
            return False
        self._groups.pop()
        return True

    def died(self, present: Sequence[str]) -> str | None:
        """The engine died with these in flight. Returns the culprit, if it is known now: it does not run again."""
        if not present:
            return None
        self._num_deaths.update(present)
        suspects = [
            request_id for request_id in present if self._num_deaths[request_id] >= DEATHS_OF_A_SUSPECT
        ]
        if self._groups:
            self._groups.pop()  # what ran; `present` is what was left of it
        if len(present) == len(suspects) == 1:
            # Those furthest from it go next: its neighbours may be of the same document and no better, and an engine
            # is given up that dies too often without an answer in between.
            if self._groups:
                self._groups.append(self._groups.pop(0))
            (alone,) = present
            self._num_deaths_alone[alone] += 1
            if self._num_deaths_alone[alone] >= DEATHS_ALONE_OF_A_CULPRIT:
                return alone
            self._groups.insert(0, [alone])
            return None
        # Not yet alone: one suspect among innocents runs once more, by itself.
        middle = (len(suspects) + 1) // 2
        self._groups += [half for half in (suspects[middle:], suspects[:middle]) if half]
        return None
