"""Where sentences end. A border too few costs nothing, one too many tears a sentence apart."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.ops.sentences import split_sentences


def bare(text: str) -> list[str]:
    return [sentence.strip() for sentence in split_sentences(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Guten Tag.", "Wie geht es?", "Gut!"],
        ["Er sagte: „Nein.“", "Dann ging er.", "(Spät.)", "Schluss."],
        ["Hello there!", "How are you?!", "Fine…", "I think."],
        ["Größe passt.", "Äpfel auch.", "Übrigens nicht."],
        ["Paid 3.50 EUR on example.com today.", "Thanks."],
    ],
)
def test_latin_sentences_end_at_their_marks(sentences: list[str]) -> None:
    assert bare(" ".join(sentences)) == sentences


def test_chinese_sentences_need_no_space() -> None:
    assert bare("你好。我的订单在哪里？快点！“真的。”谢谢。") == [
        "你好。",
        "我的订单在哪里？",
        "快点！",
        "“真的。”",
        "谢谢。",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Das ist z. B. Herr Dr. Meier aus St. Gallen.",
        "Am 3. Mai und am 12. Juni war Nr. 7 dran.",
        "J. R. R. Tolkien schrieb das.",
        "Die ca. 5 Stück, d.h. Mio. Euro, usw. Punkt.",
        "Mr. Smith met Mrs. Jones vs. Acme Inc. Friday.",
        "Kap. IV. Anfang",
        "we met at 5 p.m. on Monday",
        "er kam. und ging",  # before a small letter in doubt there is none
    ],
)
def test_a_full_stop_of_an_abbreviation_initial_or_ordinal_ends_nothing(text: str) -> None:
    assert bare(text) == [text]


def test_a_line_break_ends_a_sentence() -> None:
    assert split_sentences("Betreff\n\nHallo Anna,\nich") == ["Betreff\n\n", "Hallo Anna,\n", "ich"]


def test_nothing_gives_nothing() -> None:
    assert split_sentences("") == []


@given(
    st.text(alphabet=st.sampled_from("aZ .!?…。！？\n\t“”\"')1äÄ你\u0301\x00"), max_size=60)
    | st.text(max_size=60)
)
def test_joined_sentences_are_the_text(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)


@pytest.mark.parametrize(
    "text",
    [
        "." * 1_000_000,
        "a" + "…" * 1_000_000 + "b",
        "." + "'" * 1_000_000,
        "." + " " * 1_000_000 + "a",
        ". " * 500_000,
        "。" * 1_000_000,
        "x" * 1_000_000,
        "\n" * 1_000_000,
        "Ende. " * 170_000,
    ],
    ids=lambda text: repr(text[:3]),
)
def test_no_text_of_a_megabyte_takes_long(text: str) -> None:
    started = time.process_time()
    assert sum(map(len, split_sentences(text))) == len(text)
    assert time.process_time() - started < 4
