"""Cutting: each chunk fits, nothing is lost but white space, and no text takes long."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docmill.data.demo import demo_documents, hostile_documents
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.chunking import Chunk, chunk


def cut(text: str, tokenizer: ModelTokenizer, max_tokens: int) -> list[Chunk]:
    return chunk(text, tokenizer.encode_data([text])[0], max_tokens=max_tokens, tokenizer=tokenizer)


def check(text: str, chunks: list[Chunk], tokenizer: ModelTokenizer, max_tokens: int) -> None:
    for position, part in enumerate(chunks):
        assert part.num_tokens <= max_tokens, f"chunk {position} has {part.num_tokens} tokens of {max_tokens}"
        assert list(part.token_ids) == tokenizer.encode_data([part.text])[0], f"chunk {position}"
        if len(chunks) > 1:
            assert part.text == part.text.strip() != ""
        assert part.separator.strip() == ""
    assert "".join("".join(part.text.split()) for part in chunks) == "".join(text.split())


def test_a_text_that_fits_is_one_chunk_as_it_is(tokenizer: ModelTokenizer) -> None:
    (part,) = cut(" Guten Tag. ", tokenizer, 1000)
    assert part.text == " Guten Tag. "
    assert part.separator == ""


def test_chunks_end_with_sentences_and_are_filled(tokenizer: ModelTokenizer) -> None:
    sentence = "Der Wasserkocher ist beschädigt angekommen."
    num_tokens = len(tokenizer.encode_data([sentence + " "])[0])
    chunks = cut(" ".join([sentence] * 10), tokenizer, 4 * num_tokens)
    assert [part.text.count("angekommen.") for part in chunks] == [4, 4, 2]
    assert all(part.text.startswith("Der") for part in chunks)


def test_what_stood_between_chunks_is_remembered(tokenizer: ModelTokenizer) -> None:
    sentences = ["Erster Satz hier drin.", "Zweiter Satz hier drin.", "Dritter Satz hier drin."]
    max_tokens = max(len(ids) for ids in tokenizer.encode_data([f"{sentence}\n\n" for sentence in sentences]))
    chunks = cut(f"{sentences[0]}\n\n{sentences[1]} {sentences[2]}", tokenizer, max(16, max_tokens))
    assert [(part.text, part.separator) for part in chunks] == [
        (sentences[0], "\n\n"),
        (sentences[1], " "),
        (sentences[2], ""),
    ]


def test_a_giant_sentence_is_cut_at_blanks(tokenizer: ModelTokenizer) -> None:
    words = [f"Wort{number}" for number in range(2000)]
    chunks = cut(" ".join(words), tokenizer, 100)
    check(" ".join(words), chunks, tokenizer, 100)
    assert [word for part in chunks for word in part.text.split()] == words, "a word was torn apart"


def test_a_giant_word_is_cut_all_the_same(tokenizer: ModelTokenizer) -> None:
    text = "Donaudampfschifffahrt" * 500 + "."
    check(text, cut(text, tokenizer, 64), tokenizer, 64)


def test_marks_stay_with_their_letter(tokenizer: ModelTokenizer) -> None:
    text = "q\u0307\u0323" * 2000  # has no composed form
    chunks = cut(text, tokenizer, 64)
    check(text, chunks, tokenizer, 64)
    assert len(chunks) > 1
    assert not any(unicodedata.combining(part.text[0]) for part in chunks)


def test_marks_without_end_are_cut_at_last(tokenizer: ModelTokenizer) -> None:
    text = "Z" + "\u0300" * 5000
    check(text, cut(text, tokenizer, 64), tokenizer, 64)


@pytest.mark.parametrize("max_tokens", [16, 17, 50, 300])
def test_every_document_of_the_demo_corpus_is_cut_whole(tokenizer: ModelTokenizer, max_tokens: int) -> None:
    for document in demo_documents(seed=2, num_documents=60):
        check(document.text, cut(document.text, tokenizer, max_tokens), tokenizer, max_tokens)


def test_every_hostile_document_is_cut_whole(tokenizer: ModelTokenizer) -> None:
    for row in hostile_documents(seed=1):
        if row.text is not None and len(row.text) < 1_000_000:
            text = row.text.decode("utf-8", errors="replace")
            check(text, cut(text, tokenizer, 100), tokenizer, 100)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "Satz.",
                " ",
                "\n\n",
                "wort",
                "。",
                "你好",
                "3.",
                "\u0301",
                "x" * 50,
                "é",
                "👩‍👩‍👧",
                "\t",
                "A",
                "\x00",
            ]
        )
        | st.text(max_size=20),
        max_size=40,
    ),
    st.integers(16, 40),
)
def test_any_text_is_cut_whole(tokenizer: ModelTokenizer, pieces: list[str], max_tokens: int) -> None:
    text = "".join(pieces)
    check(text, cut(text, tokenizer, max_tokens), tokenizer, max_tokens)


class CostlyJoins:
    """A tokenizer to whom two words together are more tokens than the two apart."""

    def encode_data(self, texts: list[str]) -> list[list[int]]:
        return [
            [ord(letter) for letter in text] + [0] * (3 * len(re.findall(r"\S\s+\S", text))) for text in texts
        ]


def test_sentences_that_are_more_tokens_together_than_apart_are_cut_again() -> None:
    tokenizer: Any = CostlyJoins()
    text = "Abcdef. " * 3 + "Ghijkl.\n\n" + "Mnopqr. " * 4
    chunks = cut(text, tokenizer, 16)
    check(text, chunks, tokenizer, 16)
    before_break = next(part for part in chunks if part.text.endswith("Ghijkl."))
    assert before_break.separator == "\n\n"


@pytest.mark.parametrize(
    "piece",
    ["Der Kopfhörer aus Bestellung 4711 ist kaputt. ", "wort ", "x", "你好", "Z\u0300", "\n", "。", "a. "],
)
def test_a_text_of_a_megabyte_takes_seconds(tokenizer: ModelTokenizer, piece: str) -> None:
    text = piece * (1_000_000 // len(piece.encode()))
    started = time.process_time()
    chunks = cut(text, tokenizer, 300)
    assert time.process_time() - started < 20
    assert sum(len("".join(part.text.split())) for part in chunks) == len("".join(text.split()))
    assert max((part.num_tokens for part in chunks), default=0) <= 300
