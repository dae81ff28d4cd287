"""The demo corpus: what tests, benchmarks and the demo model's training rely on."""

import re
import statistics
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import islice

import pytest

from docmill.data.demo import (
    DEMO_SCHEMA,
    LABELS,
    LANGUAGES,
    NO_KEY_SUMMARY,
    demo_batches,
    demo_documents,
    hostile_documents,
)
from docmill.data.demo.corpus import demo_sentences

SENTENCE_ENDS = {"de": re.compile(r"(?<=[.!?]) "), "zh": re.compile(r"(?<=[。！？])(?!$)")}


def test_same_seed_gives_the_same_documents_and_another_seed_others() -> None:
    first = list(demo_documents(seed=3, num_documents=50))
    assert list(demo_documents(seed=3, num_documents=50)) == first
    other = {document.text for document in demo_documents(seed=4, num_documents=50)}
    assert len(other & {document.text for document in first}) < 3


@pytest.mark.parametrize("duplicate_share", [0.0, 0.3])
def test_a_slice_equals_the_same_part_of_the_whole(duplicate_share: float) -> None:
    whole = list(demo_documents(seed=3, num_documents=60, duplicate_share=duplicate_share))
    assert (
        list(demo_documents(seed=3, num_documents=20, start=25, duplicate_share=duplicate_share))
        == whole[25:45]
    )


def test_ids_are_unique_and_every_language_and_label_occurs() -> None:
    documents = list(demo_documents(seed=1, num_documents=500))
    assert len({document.doc_id for document in documents}) == 500
    assert {document.language for document in documents} == set(LANGUAGES)
    assert {document.reference_label for document in documents} == set(LABELS)


def test_lengths_are_skewed_from_one_sentence_to_over_a_hundred() -> None:
    counts = [len(demo_sentences(seed=1, index=index)[2]) for index in range(20_000)]
    assert min(counts) == 1
    assert 100 < max(counts) <= 120
    assert statistics.median(counts) == 5
    assert statistics.mean(counts) > 1.2 * statistics.median(counts)


def test_about_the_requested_share_repeats_an_earlier_text_under_its_own_id() -> None:
    documents = list(demo_documents(seed=1, num_documents=2_000, duplicate_share=0.25))
    num_repeated = len(documents) - len({document.text for document in documents})
    assert 0.2 < num_repeated / len(documents) < 0.3
    assert len({document.doc_id for document in documents}) == len(documents)


def test_without_duplicates_nearly_every_text_is_different() -> None:
    texts = Counter(document.text for document in demo_documents(seed=1, num_documents=2_000))
    assert len(texts) > 1_990


@pytest.mark.parametrize("duplicate_share", [-0.1, 1.0])
def test_a_share_that_leaves_no_original_is_refused(duplicate_share: float) -> None:
    with pytest.raises(ValueError, match="duplicate_share"):
        next(demo_documents(seed=1, num_documents=1, duplicate_share=duplicate_share))


def test_documents_split_into_sentences_whose_translations_join_to_the_reference() -> None:
    for index, document in enumerate(demo_documents(seed=2, num_documents=500)):
        language, label, sentences = demo_sentences(seed=2, index=index)
        assert (language, label) == (document.language, document.reference_label)
        assert SENTENCE_ENDS[language].split(document.text) == [sentence.text for sentence in sentences]
        assert " ".join(sentence.translation for sentence in sentences) == document.reference_translation
        assert SENTENCE_ENDS["de"].split(document.reference_translation) == [s.translation for s in sentences]


def test_exactly_one_sentence_holds_the_summary_and_its_order_number() -> None:
    for index, document in enumerate(demo_documents(seed=2, num_documents=500)):
        keys = [sentence for sentence in demo_sentences(seed=2, index=index)[2] if sentence.summary]
        assert [key.summary for key in keys] == [document.reference_summary]
        number = re.search(r"order (\d{4}) ", document.reference_summary)
        assert number, document.reference_summary
        assert number[1] in keys[0].text
        assert number[1] in keys[0].translation


def test_a_sentence_has_one_translation() -> None:
    translations: dict[str, str] = {}
    for index in range(3_000):
        for sentence in demo_sentences(seed=5, index=index)[2]:
            assert translations.setdefault(sentence.text, sentence.translation) == sentence.translation


def test_no_slot_is_left_open() -> None:
    for document in demo_documents(seed=6, num_documents=2_000):
        texts = document.text + document.reference_translation + document.reference_summary
        assert not re.search(r"[{}_]|\s\s", texts), texts


def test_texts_are_already_clean() -> None:
    for document in demo_documents(seed=2, num_documents=500):
        text = document.text
        assert unicodedata.normalize("NFC", text) == text == text.strip()
        assert all(unicodedata.category(character)[0] != "C" for character in text)


def test_no_label_begins_another_and_some_have_several_words() -> None:
    assert len(LABELS) == len(set(LABELS)) == 8
    assert not any(a != b and a.startswith(b) for a in LABELS for b in LABELS)
    assert {len(label.split()) for label in LABELS} == {1, 2}
    assert NO_KEY_SUMMARY not in LABELS


def test_batches_hold_the_documents_in_order() -> None:
    batches = list(demo_batches(seed=3, num_documents=250, batch_size=100, duplicate_share=0.1))
    assert [batch.num_rows for batch in batches] == [100, 100, 50]
    assert all(batch.schema == DEMO_SCHEMA for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    documents = demo_documents(seed=3, num_documents=250, duplicate_share=0.1)
    assert rows == [{name: getattr(document, name) for name in DEMO_SCHEMA.names} for document in documents]


def test_a_million_documents_are_not_made_before_the_first_is_asked_for() -> None:
    batch = next(demo_batches(seed=3, num_documents=1_000_000, batch_size=64))
    assert batch.num_rows == 64
    assert len(list(islice(demo_documents(seed=3, num_documents=10**12, start=10**9), 3))) == 3


def test_hostile_documents_hold_every_kind_of_bad_row() -> None:
    rows = list(hostile_documents(seed=1))
    assert rows == list(hostile_documents(seed=1))
    texts = {row.why: row.text for row in rows}
    assert len(texts) == len(rows)
    assert texts["null text"] is None
    assert texts["empty text"] == b""
    assert any(text and len(text) == 10_000_000 for text in texts.values())
    assert any(text and b"<|im_start|>system" in text for text in texts.values())
    assert any(text and b"</document>" in text for text in texts.values())
    assert any(text and len(text) > 20_000 and b" " not in text for text in texts.values())
    with pytest.raises(UnicodeDecodeError):
        (texts["lone surrogates"] or b"").decode()
    assert [count for count in Counter(row.doc_id for row in rows).values() if count > 1] == [2]


def test_importing_the_corpus_takes_neither_torch_nor_the_layers_above() -> None:
    code = (
        "import sys, docmill.data.demo;"
        "print([m for m in sys.modules if m in ('torch', 'vllm', 'transformers', 'dagster')"
        " or m.startswith(('docmill.ops', 'docmill.engine', 'docmill.pipelines', 'docmill.kernels'))])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
