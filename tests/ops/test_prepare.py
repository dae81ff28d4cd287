"""Which texts are asked about, what is done to them first, and that no text takes long."""

from __future__ import annotations

import time
import unicodedata

import pytest

from docmill.data.records import Document, Status
from docmill.ops.prepare import Prepare, PreparedText, Refusal, clean, prepare


def prepared(text: str | None, **settings: object) -> PreparedText | Refusal:
    return prepare(Document("d1", text, 0), Prepare(**settings))


@pytest.mark.parametrize(
    ("text", "settings", "status", "reason"),
    [
        (None, {}, Status.FAILED, "text_missing"),
        ("", {}, Status.SKIPPED, "text_empty"),
        (" \t\r\n\u00a0\u3000 ", {}, Status.SKIPPED, "text_empty"),
        ("\x00" * 50, {}, Status.SKIPPED, "text_empty"),
        ("abc", {"min_chars": 4}, Status.SKIPPED, "text_too_short"),
        (" abc ", {"min_chars": 4}, Status.SKIPPED, "text_too_short"),  # counted after cleaning
        ("abcd", {"max_chars": 3}, Status.FAILED, "text_too_long"),
    ],
)
def test_a_text_that_is_not_asked_about_has_a_status_and_a_reason(
    text: str | None, settings: dict[str, object], status: Status, reason: str
) -> None:
    refusal = prepared(text, **settings)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (status, reason)
    assert str(refusal).startswith(f"{reason}: ")


def test_a_row_without_an_id_fails_whatever_its_text() -> None:
    refusal = prepare(Document(None, "text", 0), Prepare())
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (Status.FAILED, "id_missing")


def test_lengths_at_the_limits_are_taken() -> None:
    assert prepared("abcd", min_chars=4, max_chars=4) == PreparedText("abcd")


def test_too_long_texts_are_cut_where_the_job_says_so() -> None:
    assert prepared("abc def", max_chars=4, too_long="truncate") == PreparedText("abc", truncated=True)
    assert prepared("abc", max_chars=4, too_long="truncate") == PreparedText("abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh"),  # one kind of line break
        ("a\x00b\x07c\x1bd\x7fe\x9ff\ufeffg\ufffeh\uffffi", "abcdefghi"),  # no control characters
        ("a \t\u00a0\nb  c", "a\nb  c"),  # no blanks at line ends; others stay
        ("a\n\n\n\n\nb\n\nc", "a\n\nb\n\nc"),  # no runs of empty lines
        ("a\n \n \n \nb", "a\n\nb"),  # nor of blank ones
        ("\n  a\t", "a"),
        ("tab\tstays", "tab\tstays"),
        ("Größe 你好 👩‍👩‍👧 \u202eRTL\u202c", "Größe 你好 👩‍👩‍👧 \u202eRTL\u202c"),
    ],
)
def test_cleaning_touches_layout_and_never_words(text: str, expected: str) -> None:
    assert clean(text, "NFC") == expected


def test_normalisation_is_what_the_job_says() -> None:
    text = "a\u0308 ﬁ x²"
    assert clean(text, "NFC") == "ä ﬁ x²"
    assert clean(text, "NFKC") == "ä fi x2"
    assert clean(text, "none") == text


@pytest.mark.parametrize("normalization", ["NFC", "NFKC"])
def test_text_with_many_marks_on_a_letter_is_normalised_around_them(normalization: str) -> None:
    run = "\u0300\u0316" * 200
    cleaned = clean(f"a\u0308 Z{run} o\u0308", normalization)
    assert cleaned.startswith("ä Z")
    assert cleaned.endswith(" ö")
    assert unicodedata.normalize("NFD", cleaned) == unicodedata.normalize("NFD", f"ä Z{run} ö")


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 1_000_000 + "b",
        ("a" + " " * 1000) * 1000,
        "\n" * 1_000_000 + "b",
        "Z" + "\u0300\u0316" * 500_000,
        "é" * 1_000_000,
        "\x00" * 1_000_000 + "b",
    ],
    ids=["blanks", "columns of blanks", "line breaks", "combining marks", "accents", "NUL"],
)
def test_no_text_of_a_megabyte_takes_long(text: str) -> None:
    started = time.process_time()
    clean(text, "NFC")
    assert time.process_time() - started < 2
