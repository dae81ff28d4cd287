"""How many tokens an answer will take: the task's own estimate, corrected by the answers that have come."""

from __future__ import annotations

from collections.abc import Mapping

from docmill.ops.tasks.task import Task

# The estimate counts as much as an answer of so many tokens to each task, until there are more.
TRUST_TOKENS = 200.0


class AnswerLengths:
    """Of the tasks of one job. A task that answers twice as long as it said is taken to go on doing so."""

    def __init__(self, tasks: Mapping[str, Task], learned: Mapping[str, tuple[float, float]] | None = None):
        """`learned` is what an earlier run knew at its end."""
        self._tasks = tasks
        self._estimated = dict.fromkeys(tasks, TRUST_TOKENS)
        self._written = dict.fromkeys(tasks, TRUST_TOKENS)
        for name, (estimated, written) in (learned or {}).items():
            self._estimated[name] += estimated
            self._written[name] += written

    def expected(self, task_name: str, num_text_tokens: int) -> float:
        """Tokens of the answer about a text of this length."""
        estimate = self._tasks[task_name].estimate_output_tokens(num_text_tokens)
        return estimate * self._written[task_name] / self._estimated[task_name]

    def learned(self) -> dict[str, tuple[float, float]]:
        """By task: estimated and written tokens, of the answers that have come."""
        return {
            name: (self._estimated[name] - TRUST_TOKENS, self._written[name] - TRUST_TOKENS)
            for name in self._tasks
        }

    def learn(self, task_name: str, num_text_tokens: int, num_output_tokens: int) -> None:
        """An answer has come."""
        self._estimated[task_name] += self._tasks[task_name].estimate_output_tokens(num_text_tokens)
        self._written[task_name] += num_output_tokens
