"""What one worker has answered lately, so that an exact duplicate is not computed again. In bounded memory."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass

from docmill.data.records import Usage
from docmill.engine.types import Completion

MAX_NUMBERS = 4_000_000  # token ids and label scores held: some 20 MB, with what each entry costs beside them
NUMBERS_PER_ENTRY = 100  # what an entry takes beside them, in numbers
SHORT_ANSWER = 60  # numbers


@dataclass(slots=True, eq=False)
class _Entry:
    """A completion in a fifth of its memory."""

    token_ids: array[int]
    label_logprobs: array[float] | None
    finish_reason: str | None
    usage: Usage

    def size(self) -> int:
        return NUMBERS_PER_ENTRY + len(self.token_ids) + 2 * len(self.label_logprobs or ())


def num_recent_texts(num_tasks: int) -> int:
    """About how many texts a worker remembers, with short answers to so many tasks."""
    return MAX_NUMBERS // (num_tasks * (NUMBERS_PER_ENTRY + SHORT_ANSWER))


class RecentAnswers:
    """Completions by request key; those used longest ago make room for new ones. Errors are not kept."""

    def __init__(self, max_numbers: int = MAX_NUMBERS):
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._max_numbers, self._num_numbers = max_numbers, 0

    def add(self, request_key: str, completion: Completion) -> None:
        """Keep one; its request must be repeatable (`Sampling.repeatable`)."""
        if completion.error is not None or request_key in self._entries:
            return
        logprobs = completion.label_logprobs
        entry = _Entry(
            array("i", completion.token_ids),
            None if logprobs is None else array("d", logprobs),
            completion.finish_reason,
            completion.usage,
        )
        self._entries[request_key] = entry
        self._num_numbers += entry.size()
        while self._num_numbers > self._max_numbers:
            _, oldest = self._entries.popitem(last=False)
            self._num_numbers -= oldest.size()

    def find(self, request_key: str) -> Completion | None:
        """The completion of an equal request; its request id is empty."""
        entry = self._entries.get(request_key)
        if entry is None:
            return None
        self._entries.move_to_end(request_key)
        logprobs = entry.label_logprobs
        return Completion(
            "",
            tuple(entry.token_ids),
            entry.finish_reason,
            entry.usage,
            None if logprobs is None else tuple(logprobs),
        )
