"""Ask anything about a document; optionally the answer is JSON of a given schema."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from docmill.engine.types import Sampling
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.tasks.task import Ask, Dialogue, Task, TaskError


class Generate(Task):
    """Column `answer`: text, or JSON text where `json_schema` is set (the engine is then held to the schema)."""

    columns: ClassVar[list[pa.Field]] = [pa.field("answer", pa.string())]

    kind: Literal["generate"]
    instruction: Annotated[str, Field(min_length=1)]
    json_schema: dict[str, Any] | None = None
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_output_tokens: Annotated[int, Field(gt=0)] = 256
    long_documents: Literal["fail", "first", "each"] = "fail"
    """A document of several chunks: fail the row, ask about the first chunk alone, or about each (a line each)."""

    @model_validator(mode="after")
    def _check(self) -> Generate:
        if self.json_schema is not None and self.long_documents == "each":
            raise ValueError(
                "`long_documents: each` joins answers into lines, which is no JSON; use `first` or `fail`"
            )
        return self

    @property
    def repeatable(self) -> bool:
        """Unless its answers are drawn at random, without a seed."""
        return self._sampling().repeatable

    def ask(self, chunks: list[Chunk], prompts: Prompts) -> Dialogue:
        """One question a chunk."""
        if len(chunks) > 1 and self.long_documents == "fail":
            raise TaskError(
                "document_too_long", f"it fits the model only in {len(chunks)} chunks; see `long_documents` of the task"
            )  # fmt: skip
        asked = chunks if self.long_documents == "each" else chunks[:1]
        completions = yield [
            Ask(chunk.text, chunk.token_ids, self.instruction, self._sampling()) for chunk in asked
        ]
        decoded = (prompts.tokenizer.decode(completion.token_ids) for completion in completions)
        answers = [_before_stop(text, self.stop).strip() for text in decoded]
        if self.json_schema is not None:
            _check_json(answers[0])
        return {"answer": "\n".join(answers)}

    def estimate_output_tokens(self, num_text_tokens: float) -> float:
        """Half of what the task allows: nobody knows the prompt but its author. An empty text is not asked about."""
        return self.max_output_tokens / 2 if num_text_tokens else 0.0

    def max_chunk_tokens(self, prompts: Prompts, max_model_len: int) -> int:
        """Room for the chunk and an answer of full length."""
        return max_model_len - prompts.num_frame_tokens(self.instruction) - self.max_output_tokens

    def _sampling(self) -> Sampling:
        schema = json.dumps(self.json_schema, sort_keys=True) if self.json_schema is not None else None
        return Sampling(
            self.max_output_tokens, self.temperature, self.top_p, self.top_k, self.seed, self.stop, schema
        )


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    """The engine ends an answer behind a stop string; the string itself is no part of it."""
    found = [text.find(string) for string in stop if string in text]
    return text[: min(found)] if found else text


def _check_json(answer: str) -> None:
    try:
        json.loads(answer)
    except ValueError as error:
        raise TaskError("answer_not_json", f"{error}; is max_output_tokens large enough?") from error
