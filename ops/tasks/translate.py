"""Translate a document: chunk by chunk, joined in order."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from docmill.engine.types import Sampling
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.tasks.task import Ask, Dialogue, Task, sampling

SHORTEST_ANSWER_TOKENS = 64  # even one word may translate into a long one


class Translate(Task):
    """Column `translation`. `{target_language}` in the instruction stands for the setting."""

    columns: ClassVar[list[pa.Field]] = [pa.field("translation", pa.string())]

    kind: Literal["translate"]
    target_language: str = "English"
    instruction: str = "Translate the document into {target_language}. Answer with the translation only."
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_output_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Answer tokens per document token, at most. Raise it for languages that the model's tokenizer cuts finely."""
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    """A fixed bound instead of the ratio."""

    @property
    def repeatable(self) -> bool:
        """Unless its answers are drawn at random."""
        return self.temperature == 0.0

    def ask(self, chunks: list[Chunk], prompts: Prompts) -> Dialogue:
        """One question a chunk; chunks stay apart by what stood between them, a line break or a space."""
        instruction = self._instruction()
        completions = yield [
            Ask(chunk.text, chunk.token_ids, instruction, self._sampling(chunk)) for chunk in chunks
        ]
        translations = [prompts.tokenizer.decode(completion.token_ids).strip() for completion in completions]
        separators = ["\n" * min(chunk.separator.count("\n"), 2) or " " for chunk in chunks[:-1]]
        return {"translation": "".join(map("".join, zip(translations, [*separators, ""], strict=True)))}

    def estimate_output_tokens(self, num_text_tokens: float) -> float:
        """As long as the text."""
        return num_text_tokens

    def max_chunk_tokens(self, prompts: Prompts, max_model_len: int) -> int:
        """Room for the chunk and an answer in proportion to it."""
        room = max_model_len - prompts.num_frame_tokens(self._instruction())
        if self.max_output_tokens is not None:
            return room - self.max_output_tokens
        return int((room - SHORTEST_ANSWER_TOKENS) / (1 + self.max_output_ratio))

    def _instruction(self) -> str:
        return self.instruction.replace("{target_language}", self.target_language)

    def _sampling(self, chunk: Chunk) -> Sampling:
        in_proportion = SHORTEST_ANSWER_TOKENS + int(chunk.num_tokens * self.max_output_ratio)
        return sampling(self.max_output_tokens or in_proportion, self.temperature)
