"""What a language is called, and which one a text is in: sure, or not said."""

from __future__ import annotations

import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from docmill.ops import languages
from docmill.ops.languages import is_alike, language_code, language_detector

GERMAN = "Das Paket, das ich letzte Woche bestellt habe, ist immer noch nicht angekommen."
ENGLISH = "The parcel that I ordered last week has still not arrived at my house."
JAPANESE = "先週注文した荷物がまだ届いていません。いつ届くか教えてください。"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("Brazilian Portuguese", "pt"),
        ("german (formal)", "de"),
        ("Simplified Chinese", "zh"),
        ("Mandarin Chinese", "zh"),  # two names of one
        ("Norwegian Bokmål", "no"),
        ("Serbo-Croatian", "hr"),
        ("de", "de"),
        ("pt-BR", "pt"),
        ("zh_Hant", "zh"),
        ("English or German", None),  # which of them?
        ("Klingon", None),
        ("xx", None),
        ("", None),
        ("it is not said", None),  # no code among words
    ],
)
def test_a_language_is_known_by_one_name(name: str, code: str | None) -> None:
    assert language_code(name) == code


def test_every_language_that_has_a_name_can_be_told() -> None:
    known = {*LanguageIdentifier.from_model_file(MODEL_FILE).labels}
    assert {*languages._CODES.values()} <= known
    assert set().union(*languages._ALIKE) <= known


def test_a_sentence_is_told_and_less_is_not() -> None:
    detect = language_detector()
    assert [detect(text) for text in (GERMAN, ENGLISH, JAPANESE)] == ["de", "en", "ja"]
    assert detect(GERMAN[:30]) is None, "too short"
    assert (
        detect("6479 2025-10-27 AB-12-X 268.00 EUR 1Z999AA10123456784 +49 30 1234567 DE89370400440532013000")
        is None
    )
    assert detect(GERMAN + "\ud800") == "de", "half a character, which a model may write"


def test_neighbours_count_as_one() -> None:
    assert is_alike("no", "da")
    assert is_alike("en", "en")
    assert not is_alike("de", "nl")
