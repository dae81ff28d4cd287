"""Summarise a document: each chunk, then the summaries of the chunks, until one is left (map-reduce)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from docmill.engine.types import Sampling
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.tasks.task import Ask, Dialogue, Task, sampling


class Summarize(Task):
    """Column `summary`. `{language}` in the instructions stands for the setting."""

    columns: ClassVar[list[pa.Field]] = [pa.field("summary", pa.string())]

    kind: Literal["summarize"]
    language: str = "English"
    instruction: str = "Summarize the document in one sentence in {language}. Answer with the summary only."
    reduce_instruction: str = (
        "The document lists summaries of the parts of one longer document. "
        "Combine them into one sentence in {language}. Answer with the summary only."
    )
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_output_tokens: Annotated[int, Field(gt=0)] = 128

    @property
    def repeatable(self) -> bool:
        """Unless its answers are drawn at random."""
        return self.temperature == 0.0

    def ask(self, chunks: list[Chunk], prompts: Prompts) -> Dialogue:
        """A question a chunk; then as many rounds over the partial summaries as it takes."""
        instruction = self.instruction.replace("{language}", self.language)
        completions = yield [
            Ask(chunk.text, chunk.token_ids, instruction, self._sampling()) for chunk in chunks
        ]
        summaries = [prompts.tokenizer.decode(completion.token_ids).strip() for completion in completions]
        longest = max(chunk.num_tokens for chunk in chunks)
        reduce_instruction = self.reduce_instruction.replace("{language}", self.language)
        while len(summaries) > 1:
            texts = _group(summaries, prompts, max_tokens=longest)
            ids = prompts.tokenizer.encode_data(texts)
            completions = yield [
                Ask(text, token_ids, reduce_instruction, self._sampling())
                for text, token_ids in zip(texts, ids, strict=True)
            ]
            summaries = [prompts.tokenizer.decode(completion.token_ids).strip() for completion in completions]
        return {"summary": summaries[0]}

    def estimate_output_tokens(self, num_text_tokens: float) -> float:
        """A sentence, or what the limit leaves of it."""
        return min(30.0, self.max_output_tokens, num_text_tokens)

    def max_chunk_tokens(self, prompts: Prompts, max_model_len: int) -> int:
        """Room for the chunk (or its summaries) and a summary of full length."""
        instructions = (self.instruction, self.reduce_instruction)
        frame = max(
            prompts.num_frame_tokens(text.replace("{language}", self.language)) for text in instructions
        )
        return max_model_len - frame - self.max_output_tokens

    def _sampling(self) -> Sampling:
        return sampling(self.max_output_tokens, self.temperature)


def _group(summaries: list[str], prompts: Prompts, *, max_tokens: int) -> list[str]:
    """Summaries a line each, in order, in as few texts as fit; two a text at the least, so that every round halves."""
    counts = [len(ids) + 1 for ids in prompts.tokenizer.encode_data(summaries)]
    groups: list[list[str]] = []
    room = 0
    for summary, count in zip(summaries, counts, strict=True):
        if groups and (count <= room or len(groups[-1]) < 2):
            groups[-1].append(summary)
            room -= count
        else:
            groups.append([summary])
            room = max_tokens - count
    return ["\n".join(group) for group in groups]
