"""What a task is: the questions it asks about a document, and how it reads the answers.

A task's `ask` is a generator. It yields a round of `Ask`s, is sent their completions, in the same order, and either
yields a further round or returns the answer's columns. Reading one is reading what the task does:

    completions = yield [Ask(chunk.text, chunk.token_ids, instruction, sampling) for chunk in document.chunks]
    return {"summary": ...}

A completion with an error never reaches a task: the row fails with that error. A task raises `TaskError` where an
answer cannot be read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from docmill.engine.types import Completion, Sampling
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts

Labels = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=4096)  # a job has few, and a million questions with each
def sampling(max_tokens: int, temperature: float) -> Sampling:
    """Of a question with these settings and no others."""
    return Sampling(max_tokens, temperature)


# Not frozen: that trebles what it takes to make one, and there is one for each question. Nobody changes it.
@dataclass(slots=True)
class Ask:
    """One question: an instruction about a text whose token ids are known. With `labels`, score these instead."""

    text: str
    token_ids: Sequence[int]
    instruction: str
    sampling: Sampling
    labels: Labels | None = None


Columns = dict[str, Any]
Dialogue = Generator[list[Ask], list[Completion], Columns]


class TaskError(Exception):
    """An answer that cannot be read. `reason` is a fixed word that the report counts by."""

    def __init__(self, reason: str, explanation: str):
        super().__init__(f"{reason}: {explanation}")
        self.reason = reason


class Task(BaseModel):
    """One entry of a job's `tasks`. Subclasses add their settings, columns and questions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    columns: ClassVar[list[pa.Field]]
    kind: str
    description: str = ""
    """Shown in the catalogue."""

    @property
    def repeatable(self) -> bool:
        """Whether the same text gets the same answer again, as `Sampling.repeatable` says of one question."""
        return True

    @abstractmethod
    def ask(self, chunks: list[Chunk], prompts: Prompts) -> Dialogue:
        """The dialogue about one document."""

    @abstractmethod
    def estimate_output_tokens(self, num_text_tokens: float) -> float:
        """Tokens that the answer about a text of this length takes, roughly: for planning."""

    @abstractmethod
    def max_chunk_tokens(self, prompts: Prompts, max_model_len: int) -> int:
        """Longest chunk whose prompt and answer fit the model's context together."""
