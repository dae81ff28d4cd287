"""The demo corpus: customer messages in German and Chinese with their right answers.

Benchmarks, tests, the tutorial and the training of the demo model take their documents from here. Document i
depends on (seed, i) alone, so any slice can be made without the rest and millions stream in constant memory.

A document belongs to one topic. Exactly one of its sentences, the key sentence, holds all facts of its
summary; details of the topic and neutral chatter stand around it. Each sentence has one translation, so the
translation of any run of whole sentences is their translations joined with a space.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import exp
from random import Random
from typing import NamedTuple

from docmill.data.demo import values
from docmill.data.demo.sentences import CHATTER, CLOSINGS, OPENINGS
from docmill.data.demo.topics import TOPICS

LABELS: tuple[str, ...] = tuple(topic.label for topic in TOPICS)

# What a summary of a part without the key sentence says.
NO_KEY_SUMMARY = "No request."

LANGUAGES: tuple[str, ...] = ("de", "zh")

# Lognormal: half of the documents have up to five sentences, one in a hundred more than thirty.
MEDIAN_SENTENCES = 5.0
SIGMA_SENTENCES = 0.8
MAX_SENTENCES = 120


@dataclass(frozen=True, slots=True)
class DemoDocument:
    """One customer message with the answers that a perfect model would give."""

    doc_id: str
    text: str
    language: str  # "de" or "zh"
    reference_translation: str
    reference_label: str
    reference_summary: str


@dataclass(frozen=True, slots=True)
class DemoSentence:
    """One sentence of a document; the summary is empty unless it is the key sentence."""

    text: str
    translation: str
    summary: str


class _Slot(NamedTuple):
    """The values of a slot in the source language and, in parallel, in English."""

    source: tuple[str, ...]
    english: tuple[str, ...]
    is_product: bool


class _Template(NamedTuple):
    """A sentence with its slots numbered; all texts take the same positional values."""

    source: str
    english: str
    summary: str
    slots: tuple[_Slot, ...]


_ARTICLES = {
    "der": {"m": "der", "f": "die", "n": "das"},
    "den": {"m": "den", "f": "die", "n": "das"},
    "dem": {"m": "dem", "f": "der", "n": "dem"},
}


def _slots(language: str) -> dict[str, _Slot]:
    column = LANGUAGES.index(language)
    tables = {
        "city": values.CITIES,
        "name": values.NAMES,
        "colour": values.COLOURS,
        "weekday": values.WEEKDAYS,
    }
    slots = {
        name: _Slot(tuple(row[column] for row in table), tuple(row[2] for row in table), False)
        for name, table in tables.items()
    }
    numbers = {
        "order": values.ORDER_NUMBERS,
        "amount": values.AMOUNTS,
        "count": values.COUNTS,
        "date": values.DATES,
    }
    slots |= {name: _Slot(table, table, False) for name, table in numbers.items()}
    english = tuple(row[3] for row in values.PRODUCTS)
    slots["p"] = _Slot(tuple(row[2] for row in values.PRODUCTS), english, True)
    for case in ("der", "den", "dem"):
        forms = tuple(f"{_ARTICLES[case][gender]} {noun}" for gender, noun, _, _ in values.PRODUCTS)
        slots[f"{case}_p"] = _Slot(forms, english, True)
        slots[f"{case.capitalize()}_p"] = _Slot(
            tuple(form[0].upper() + form[1:] for form in forms), english, True
        )
    return slots


_SLOT_NAME = re.compile(r"\{(\w+)\}")


def _compile(source: str, english: str, slots: dict[str, _Slot], *, summary: str = "") -> _Template:
    """Numbers the slots in the order of the source; English may use them in any order."""
    names = _SLOT_NAME.findall(source)
    # der_p, Den_p and so on are German cases of the slot that is called p in English.
    numbers = {name.rpartition("_")[2]: number for number, name in enumerate(names)}

    def numbered(text: str) -> str:
        return _SLOT_NAME.sub(lambda match: f"{{{numbers[match[1].rpartition('_')[2]]}}}", text)

    return _Template(
        numbered(source), numbered(english), numbered(summary), tuple(slots[name] for name in names)
    )


def _key_templates(topic_index: int, language: str, slots: dict[str, _Slot]) -> tuple[_Template, ...]:
    """Every problem with every wish in four ways of saying it."""
    topic = TOPICS[topic_index]
    templates = []
    for finite, rest, zh_problem, en_problem in topic.problems:
        for de_wish, zh_wish, en_wish in topic.wishes:
            if language == "de":
                sources = (
                    f"{{Der_p}} aus Bestellung {{order}} {finite} {rest}, und ich möchte {de_wish}.",
                    f"Leider {finite} {{der_p}} aus Bestellung {{order}} {rest}, und ich bitte um {de_wish}.",
                    f"Es geht um Bestellung {{order}}, denn {{der_p}} {finite} {rest}, und ich brauche {de_wish}.",
                    f"Ich möchte {de_wish}, weil {{der_p}} aus Bestellung {{order}} {rest} {finite}.",
                )
            else:
                sources = (
                    f"订单{{order}}的{{p}}{zh_problem}，我想要{zh_wish}。",
                    f"很遗憾，订单{{order}}的{{p}}{zh_problem}，麻烦您安排{zh_wish}。",
                    f"这是关于订单{{order}}的，因为{{p}}{zh_problem}，我需要{zh_wish}。",
                    f"我想要{zh_wish}，因为订单{{order}}的{{p}}{zh_problem}。",
                )
            englishes = (
                f"The {{p}} from order {{order}} {en_problem}, and I would like {en_wish}.",
                f"Unfortunately the {{p}} from order {{order}} {en_problem}, and I ask for {en_wish}.",
                f"This is about order {{order}}, as the {{p}} {en_problem}, and I need {en_wish}.",
                f"I would like {en_wish} because the {{p}} from order {{order}} {en_problem}.",
            )
            summary = f"The customer wants {en_wish} because the {{p}} from order {{order}} {en_problem}."
            templates += [
                _compile(de, en, slots, summary=summary) for de, en in zip(sources, englishes, strict=True)
            ]
    return tuple(templates)


class _Language(NamedTuple):
    """All templates of one language; details and keys by topic."""

    openings: tuple[_Template, ...]
    closings: tuple[_Template, ...]
    chatter: tuple[_Template, ...]
    details: tuple[tuple[_Template, ...], ...]
    keys: tuple[tuple[_Template, ...], ...]
    joiner: str


def _language(language: str) -> _Language:
    slots = _slots(language)
    column = LANGUAGES.index(language)

    def compiled(rows: tuple[tuple[str, str, str], ...]) -> tuple[_Template, ...]:
        return tuple(_compile(row[column], row[2], slots) for row in rows)

    return _Language(
        compiled(OPENINGS),
        compiled(CLOSINGS),
        compiled(CHATTER),
        tuple(compiled(topic.details) for topic in TOPICS),
        tuple(_key_templates(index, language, slots) for index in range(len(TOPICS))),
        " " if language == "de" else "",
    )


_TEMPLATES = {language: _language(language) for language in LANGUAGES}


def _choose_templates(draw: Random, texts: _Language, topic: int, num_sentences: int) -> list[_Template]:
    """The document's sentences in order, one of them the key; no template twice within sixty sentences."""
    random = draw.random
    chosen: list[_Template] = []
    key = texts.keys[topic][int(random() * len(texts.keys[topic]))]
    if num_sentences == 1:
        return [key]
    room = num_sentences - 1
    details, chatter = texts.details[topic], texts.chatter
    num_details = min(len(details), int(room * (0.3 + 0.3 * random()) + random()))
    chosen = draw.sample(details, num_details) + draw.sample(chatter, min(len(chatter), room - num_details))
    draw.shuffle(chosen)
    # Longer than all there is to say: people repeat themselves, in the same order and with other facts.
    while len(chosen) < room:
        chosen += chosen[: room - len(chosen)]
    if num_sentences > 3 and random() < 0.6:
        chosen[0] = texts.openings[int(random() * len(texts.openings))]
    if num_sentences > 3 and random() < 0.6:
        chosen[-1] = texts.closings[int(random() * len(texts.closings))]
    chosen.insert(int(random() * num_sentences), key)
    return chosen


def demo_sentences(*, seed: int, index: int) -> tuple[str, str, list[DemoSentence]]:
    """Language, label and sentences of document `index`: for the training program and for checks by sentence."""
    draw = Random((seed << 40) + index)
    random = draw.random
    language = "de" if random() < 0.55 else "zh"
    topic = int(random() * len(TOPICS))
    product = int(random() * len(values.PRODUCTS))
    num_sentences = int(MEDIAN_SENTENCES * exp(draw.gauss(0.0, SIGMA_SENTENCES)) + 0.5)
    num_sentences = min(MAX_SENTENCES, max(1, num_sentences))
    sentences = []
    for source, english, summary, slots in _choose_templates(
        draw, _TEMPLATES[language], topic, num_sentences
    ):
        if not slots:
            sentences.append(DemoSentence(source, english, ""))
            continue
        picks = [product if slot.is_product else int(random() * len(slot.source)) for slot in slots]
        in_source = [slot.source[pick] for slot, pick in zip(slots, picks, strict=True)]
        in_english = [slot.english[pick] for slot, pick in zip(slots, picks, strict=True)]
        summary = summary and summary.format(*in_english)
        sentences.append(DemoSentence(source.format(*in_source), english.format(*in_english), summary))
    return language, LABELS[topic], sentences


def demo_documents(
    *, seed: int, num_documents: int, start: int = 0, duplicate_share: float = 0.0
) -> Iterator[DemoDocument]:
    """Documents start .. start + num_documents of the endless corpus of `seed`, in order.

    About `duplicate_share` of them repeat the text of an earlier document under their own id. The others are the
    same for every share.
    """
    if not 0.0 <= duplicate_share < 1.0:
        raise ValueError(f"duplicate_share must be at least 0 and below 1, got {duplicate_share}")
    for index in range(start, start + num_documents):
        content = _original(seed, index, duplicate_share) if duplicate_share else index
        language, label, sentences = demo_sentences(seed=seed, index=content)
        yield DemoDocument(
            f"demo-{seed}-{index:09d}",
            _TEMPLATES[language].joiner.join([sentence.text for sentence in sentences]),
            language,
            " ".join([sentence.translation for sentence in sentences]),
            label,
            next(sentence.summary for sentence in sentences if sentence.summary),
        )


def _original(seed: int, index: int, duplicate_share: float) -> int:
    """The document that `index` repeats, itself if it repeats none; found from (seed, index) without the others."""
    while index:
        draw = Random((seed << 40) + (1 << 39) + index)  # other numbers than those of the document itself
        if draw.random() >= duplicate_share:
            return index
        index = int(draw.random() * index)
    return index


def weighted_templates(language: str) -> Iterator[tuple[list[str], list[tuple[str, ...]], int]]:
    """Every sentence's fixed parts and the values of its slots, with about how often it occurs.

    For the demo model's tokenizer, which learns them apart.
    """
    texts = _TEMPLATES[language]
    weighted = [
        (40, (*texts.openings, *texts.closings, *texts.chatter)),
        (20, tuple(chain.from_iterable(texts.details))),
        (2, tuple(chain.from_iterable(texts.keys))),
    ]
    for weight, templates in weighted:
        for template in templates:
            fixed = [part for part in re.split(r"\{\d+\}", template.source) if part]
            yield fixed, [slot.source for slot in template.slots], weight
