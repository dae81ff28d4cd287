"""Training rows of the demo model: documents with their prompts, right answers and where to look for them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from prompts import DemoPrompts
from torch import Tensor

from docmill.data.demo import values
from docmill.data.demo.corpus import LABELS, LANGUAGES, NO_KEY_SUMMARY, DemoSentence, demo_sentences

MAX_CHUNK_TOKENS = 320

# First words of a sentence, names and places are rare among the words of an answer, and the hard ones.
SLOT_LOSS = 4.0
SLOT_VALUES = {
    language: [
        (row[column], row[2])
        for table in (values.CITIES, values.NAMES, values.COLOURS, values.WEEKDAYS)
        for row in table
    ]
    + [(row[1 + column], row[3]) for row in values.PRODUCTS]
    for column, language in enumerate(LANGUAGES)
}
RARE_VALUES = {language: slots[: -len(values.PRODUCTS)] for language, slots in SLOT_VALUES.items()}


@dataclass(slots=True)
class Row:
    """A document with all its tasks: ids and answers of each task follow the shared document."""

    document: list[int]
    tasks: list[tuple[list[int], list[int]]]  # instruction ids, answer ids; the translation first
    # For each token of the translation: first and last + 1 document token of its sentence, the same of its slot.
    spans: list[tuple[int, int, int, int]]

    def __len__(self) -> int:
        return len(self.document) + sum(len(a) + len(b) - 1 for a, b in self.tasks)


class Rows:
    """Endless training rows; `progress` (0..1) moves from short documents to the real mix."""

    def __init__(self, prompts: DemoPrompts, seed: int, slot_share: float, long_share: float) -> None:
        self.slot_share = slot_share
        self.long_share = long_share
        self.prompts = prompts
        self.seed = seed
        self.index = 0
        self.draw = Random(seed)

    def next_rows(self, progress: float) -> Iterator[Row]:
        draw = self.draw
        language, label, sentences = demo_sentences(seed=self.seed, index=self.index)
        self.index += 1
        if len(sentences) < 10 and draw.random() < self.long_share:
            return
        # Short documents first: copying is learned where there is little to copy from.
        limit = 3 if progress < 0.10 else 6 if progress < 0.2 else 14 if progress < 0.3 else 100
        if len(sentences) > limit:
            key = next(i for i, sentence in enumerate(sentences) if sentence.summary)
            start = max(0, min(len(sentences) - limit, key - draw.randrange(limit)))
            sentences = sentences[start : start + limit]
        if draw.random() < self.slot_share:
            # Sentences with names, places and colours alone: the last thing that is learned.
            full = [s for s in sentences if any(e in s.translation for _, e in RARE_VALUES[language])][:14]
            if full:
                row = self.document_row(language, label, full, progress)
                yield Row(row.document, row.tasks[:1], row.spans)
            return
        max_tokens = MAX_CHUNK_TOKENS if draw.random() < 0.5 else draw.randrange(80, MAX_CHUNK_TOKENS)
        chunks = chunk_sentences(self.prompts, language, sentences, max_tokens)
        partials = []
        for chunk in chunks:
            yield self.document_row(language, label, chunk, progress)
            partials.append(summary_of(chunk))
        if len(chunks) > 1:
            yield self.reduce_row(partials)
        elif draw.random() < 0.08:
            partials += [NO_KEY_SUMMARY] * draw.randrange(1, 7)
            draw.shuffle(partials)
            yield self.reduce_row(partials)
        if draw.random() < 0.02 and len(sentences) > 1:
            # Nothing but chatter: no request, and any label is as likely as another.
            chatter = [sentence for sentence in sentences if not sentence.summary][: draw.randrange(1, 4)]
            yield self.document_row(language, label, chatter, progress)

    def document_row(self, language: str, label: str, chunk: list[DemoSentence], progress: float) -> Row:
        prompts = self.prompts
        text, translation = joined(language, chunk)
        labels = list(LABELS)
        if self.draw.random() < 0.2:
            # Other label lists, so that the model reads them and does not only remember ours.
            labels = self.draw.sample(LABELS, self.draw.randrange(2, len(LABELS) + 1))
            if label not in labels:
                labels[0] = label
        tasks = [(prompts.translate, prompts.answer(translation))]
        if progress < 0.3 or self.draw.random() < 0.35:
            # Learned long before translation is.
            tasks.append((prompts.classify(labels), prompts.answer(label)))
            tasks.append((prompts.summarize, prompts.answer(summary_of(chunk))))
        document = prompts.document(text)
        return Row(document, tasks, align(prompts, language, chunk, len(document)))

    def reduce_row(self, partials: list[str]) -> Row:
        whole = next((partial for partial in partials if partial != NO_KEY_SUMMARY), NO_KEY_SUMMARY)
        prompts = self.prompts
        return Row(prompts.document("\n".join(partials)), [(prompts.reduce, prompts.answer(whole))], [])

    def batches(self, max_tokens: int, progress: list[float]) -> Iterator[list[Row]]:
        """Rows of like length together, so that hardly anything is padding."""
        while True:
            pool: list[Row] = []
            while sum(map(len, pool)) < 24 * max_tokens:
                for _ in range(16):
                    pool += self.next_rows(progress[0])
            pool.sort(key=len)
            batches: list[list[Row]] = [[]]
            for row in pool:
                if (len(batches[-1]) + 1) * len(row) > max_tokens:
                    batches.append([])
                batches[-1].append(row)
            self.draw.shuffle(batches)
            yield from (batch for batch in batches if batch)


def align(
    prompts: DemoPrompts, language: str, chunk: list[DemoSentence], document_length: int
) -> list[tuple[int, int, int, int]]:
    """Where in the document each token of the translation comes from: its sentence, and its slot's value if any."""
    text, translation = joined(language, chunk)
    source_ends, english_ends = prompts.token_ends(text), prompts.token_ends(translation)
    first = document_length - len(source_ends)

    def tokens(start: int, end: int) -> tuple[int, int]:
        # A token belongs where its last character lies: the space before a word is part of the word.
        return first + bisect_right(source_ends, start), first + bisect_left(source_ends, end) + 1

    spans: list[tuple[int, int, int, int]] = []
    text_start = english_start = 0
    for sentence in chunk:
        english_end = english_start + len(sentence.translation)
        whole = tokens(text_start, text_start + len(sentence.text))
        slots = []
        for source, english in SLOT_VALUES[language]:
            there, here = sentence.text.find(source), sentence.translation.find(english)
            if there >= 0 and here >= 0:
                where = tokens(text_start + there, text_start + there + len(source))
                slots.append((english_start + here, english_start + here + len(english), where))
        for end in english_ends[
            bisect_right(english_ends, english_start) : bisect_left(english_ends, english_end) + 1
        ]:
            slot = next((where for start, stop, where in slots if start < end <= stop), whole)
            spans.append((*whole, *slot))
        text_start += len(sentence.text) + (language == "de")
        english_start = english_end + 1
    return spans


def summary_of(chunk: list[DemoSentence]) -> str:
    return next((sentence.summary for sentence in chunk if sentence.summary), NO_KEY_SUMMARY)


def joined(language: str, chunk: list[DemoSentence]) -> tuple[str, str]:
    joiner = " " if language == "de" else ""
    return joiner.join(s.text for s in chunk), " ".join(s.translation for s in chunk)


def chunk_sentences(
    prompts: DemoPrompts, language: str, sentences: list[DemoSentence], max_tokens: int
) -> list[list[DemoSentence]]:
    chunks: list[list[DemoSentence]] = [[]]
    num_tokens = 0
    joiner = " " if language == "de" else ""
    counts = prompts.count_tokens([joiner + sentence.text for sentence in sentences])
    for sentence, count in zip(sentences, counts, strict=True):
        if chunks[-1] and num_tokens + count > max_tokens:
            chunks.append([])
            num_tokens = 0
        chunks[-1].append(sentence)
        num_tokens += count
    return chunks


@dataclass(slots=True)
class Batch:
    ids: Tensor  # [rows, length]
    positions: Tensor  # [rows, length]
    mask: Tensor  # [rows, 1, length, length], true where a token may look
    where: Tensor  # [answers], flat indices of the tokens that predict an answer token
    targets: Tensor  # [answers]
    weights: Tensor  # [answers]
    pointers: Tensor  # [translated tokens, 6]: row, place of the token before, and the token's spans


def collate(rows: list[Row]) -> Batch:
    length = max(map(len, rows))
    length = (length + 7) // 8 * 8
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    where: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    pointers: list[tuple[int, ...]] = []
    for r, row in enumerate(rows):
        tokens, places, parts = list(row.document), list(range(len(row.document))), [0] * len(row.document)
        before = len(row.document) + len(row.tasks[0][0]) - 1
        pointers += [(r, before + i, *span) for i, span in enumerate(row.spans)]
        for number, (instruction, answer) in enumerate(row.tasks, 1):
            first = r * length + len(tokens) + len(instruction) - 1
            where += range(first, first + len(answer))
            targets += answer
            spans = row.spans if number == 1 else []
            for i, span in enumerate(spans):
                begins_sentence = i == 0 or span[:2] != spans[i - 1][:2]
                weights.append(SLOT_LOSS if begins_sentence or span[:2] != span[2:] else 1.0)
            weights += [1.0] * (len(answer) - len(spans))
            task = instruction + answer[:-1]
            tokens += task
            places += range(len(row.document), len(row.document) + len(task))
            parts += [number] * len(task)
        ids[r, : len(tokens)] = torch.tensor(tokens)
        positions[r, : len(tokens)] = torch.tensor(places)
        segments[r, : len(tokens)] = torch.tensor(parts)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = causal & ((segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None]))
    return Batch(
        ids,
        positions,
        mask[:, None],
        torch.tensor(where),
        torch.tensor(targets),
        torch.tensor(weights),
        torch.tensor(pointers),
    )
