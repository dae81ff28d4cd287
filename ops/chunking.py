"""Cut a document that does not fit the model into chunks, on sentence borders.

All tasks of a job share a document's chunks, so that each chunk is prefilled once for all of them.
"""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.sentences import split_sentences


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of whole sentences (or, for a sentence that does not fit, a piece of one)."""

    text: str
    token_ids: array[int]
    separator: str = ""  # white space between this chunk and the next one

    @property
    def num_tokens(self) -> int:
        """Tokens of the text alone, without the prompt around it."""
        return len(self.token_ids)


def chunk(text: str, token_ids: Sequence[int], *, max_tokens: int, tokenizer: ModelTokenizer) -> list[Chunk]:
    """The chunks of one document; a document that fits is one chunk and costs nothing more."""
    if len(token_ids) <= max_tokens:
        return [Chunk(text, array("i", token_ids))]
    return _encode(_pack(_pieces(text, max_tokens, tokenizer), max_tokens), max_tokens, tokenizer)


def _pieces(text: str, max_tokens: int, tokenizer: ModelTokenizer) -> list[tuple[str, int]]:
    """Sentences with their token counts; sentences beyond the limit are cut further."""
    sentences = split_sentences(text)
    counts = [len(ids) for ids in tokenizer.encode_data(sentences)]
    pieces: list[tuple[str, int]] = []
    for sentence, count in zip(sentences, counts, strict=True):
        pieces += [(sentence, count)] if count <= max_tokens else _cut(sentence, count, max_tokens, tokenizer)
    return pieces


def _cut(sentence: str, count: int, max_tokens: int, tokenizer: ModelTokenizer) -> list[tuple[str, int]]:
    """Cut one overlong sentence into equal parts at white space if there is any, never inside a character."""
    num_parts = math.ceil(count / max_tokens) + 1
    size = max(1, len(sentence) // num_parts)
    parts, start = [], 0
    while start < len(sentence):
        end = min(start + size, len(sentence))
        if end < len(sentence):
            space = max(sentence.rfind(" ", start, end), sentence.rfind("\n", start, end))
            end = space + 1 if space > start + size // 2 else end
            latest = end + size // 2  # a letter may carry thousands of marks; then it is cut after all
            while end < min(len(sentence), latest) and unicodedata.combining(sentence[end]):
                end += 1
        parts.append(sentence[start:end])
        start = end
    counts = [len(ids) for ids in tokenizer.encode_data(parts)]
    pieces: list[tuple[str, int]] = []
    for part, part_count in zip(parts, counts, strict=True):
        fits = part_count <= max_tokens or len(part) <= 1
        pieces += [(part, part_count)] if fits else _cut(part, part_count, max_tokens, tokenizer)
    return pieces


def _pack(pieces: list[tuple[str, int]], max_tokens: int) -> list[str]:
    """Fill chunks with whole pieces, in order."""
    packed: list[str] = []
    room = 0
    for piece, count in pieces:
        if packed and count <= room:
            packed[-1] += piece
            room -= count
        else:
            packed.append(piece)
            room = max_tokens - count
    return packed


def _encode(texts: list[str], max_tokens: int, tokenizer: ModelTokenizer) -> list[Chunk]:
    stripped = [text.strip() for text in texts]
    chunks: list[Chunk] = []
    for text, bare, ids in zip(texts, stripped, tokenizer.encode_data(stripped), strict=True):
        if not bare:
            continue
        # Tokens of joined sentences can, rarely, be a few more than the sum of their tokens. What is cut for that is
        # not packed again, which could give the same text once more.
        if len(ids) > max_tokens and len(bare) > 1:
            parts = [part for part, _ in _cut(text.lstrip(), len(ids), max_tokens, tokenizer)]
            chunks += _encode(parts, max_tokens, tokenizer)
        else:
            chunks.append(Chunk(bare, array("i", ids), text[len(text.rstrip()) :]))
    return chunks
