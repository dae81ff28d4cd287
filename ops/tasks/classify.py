"""Give a document one of a list of labels, with a score for each, from the model's own next-token distribution."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.tasks.task import Ask, Dialogue, Labels, Task, sampling

LABEL_SCORES = pa.list_(pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())]))


class Classify(Task):
    """Columns `label`, `score` (its probability among the labels) and `label_scores` (all, in the job's order).

    No text is generated or parsed: every label is scored as the continuation of the prompt (`engine.labels` says how).
    Scores are the softmax of the labels' log-probabilities; over several chunks they are averaged, each chunk weighted
    by its tokens.
    """

    columns: ClassVar[list[pa.Field]] = [
        pa.field("label", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("label_scores", LABEL_SCORES),
    ]

    kind: Literal["classify"]
    labels: Annotated[list[str], Field(min_length=2)]
    instruction: str = "Which label fits the document best? Answer with one label only. Labels: {labels}."

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: list[str]) -> list[str]:
        doubled = sorted({label for label in labels if labels.count(label) > 1})
        if doubled:
            raise ValueError(
                f"the labels {', '.join(map(repr, doubled))} are listed more than once; list each once"
            )
        odd = [label for label in labels if not label or label != label.strip()]
        if odd:
            raise ValueError(f"the labels {odd!r} are empty or have blanks around them")
        return labels

    def ask(self, chunks: list[Chunk], prompts: Prompts) -> Dialogue:
        """One question a chunk; the scores are averaged by tokens."""
        instruction, label_ids = self._instruction(), _label_ids(tuple(self.labels), prompts.tokenizer)
        completions = yield [
            Ask(chunk.text, chunk.token_ids, instruction, sampling(1, 0.0), label_ids) for chunk in chunks
        ]
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        scores = [0.0] * len(self.labels)
        for chunk, completion in zip(chunks, completions, strict=True):
            assert completion.label_logprobs is not None
            for position, probability in enumerate(softmax(completion.label_logprobs)):
                scores[position] += probability * chunk.num_tokens / num_tokens
        best = max(range(len(scores)), key=scores.__getitem__)
        label_scores = [
            {"label": label, "score": score} for label, score in zip(self.labels, scores, strict=True)
        ]
        return {"label": self.labels[best], "score": scores[best], "label_scores": label_scores}

    def estimate_output_tokens(self, num_text_tokens: float) -> float:
        """Scoring labels writes one token; an empty text is not asked about."""
        return min(1.0, num_text_tokens)

    def max_chunk_tokens(self, prompts: Prompts, max_model_len: int) -> int:
        """Room for the chunk and the longest label."""
        longest = max(map(len, _label_ids(tuple(self.labels), prompts.tokenizer)))
        return max_model_len - prompts.num_frame_tokens(self._instruction()) - longest - 2

    def _instruction(self) -> str:
        return self.instruction.replace("{labels}", ", ".join(self.labels))


@lru_cache(maxsize=64)
def _label_ids(labels: tuple[str, ...], tokenizer: ModelTokenizer) -> Labels:
    return tuple(tuple(ids) for ids in tokenizer.encode_data(labels))


def softmax(logprobs: tuple[float, ...]) -> list[float]:
    """Log-probabilities of some outcomes as probabilities that add up to one. All -inf gives equal shares."""
    highest = max(logprobs)
    if highest == -math.inf:
        return [1 / len(logprobs)] * len(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]
