"""How often the demo model is right on documents it has never seen: greedy, float32, chunked as docmill does it."""

import time
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path
from re import split

import torch
from prompts import FENCE_CLOSE, FENCE_OPEN, SYSTEM, TRANSLATE, DemoPrompts
from rows import MAX_CHUNK_TOKENS, chunk_sentences, joined, summary_of
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from docmill.data.demo.corpus import LABELS, NO_KEY_SUMMARY, DemoSentence, demo_sentences

BATCH_ROWS = 48


def generate(model: PreTrainedModel, requests: list[tuple[list[int], int]], end_id: int) -> list[list[int]]:
    """Greedy answers to (prompt ids, most new tokens), like lengths together. Ends at `end_id`, which is left out."""
    order = sorted(range(len(requests)), key=lambda i: (requests[i][1], len(requests[i][0])))
    answers: list[list[int]] = [[] for _ in requests]
    for first in range(0, len(order), BATCH_ROWS):
        rows = order[first : first + BATCH_ROWS]
        longest = max(len(requests[i][0]) for i in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, i in enumerate(rows):
            prompt = requests[i][0]
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(requests[i][1] for i in rows),
        )
        for row, i in enumerate(rows):
            answer = output[row, longest:].tolist()
            answers[i] = answer[: answer.index(end_id)] if end_id in answer else answer
    return answers


def chunked(prompts: DemoPrompts, language: str, sentences: list[DemoSentence]) -> list[list[DemoSentence]]:
    return chunk_sentences(prompts, language, sentences, MAX_CHUNK_TOKENS)


def num_equal_sentences(reference: str, answer: str) -> tuple[int, int]:
    """How many of the reference's sentences the answer has, in order, and how many there are."""
    expected, given = split(r"(?<=[.!?]) ", reference), split(r"(?<=[.!?]) ", answer)
    blocks = SequenceMatcher(None, expected, given, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks), len(expected)


def evaluate(folder: Path, *, seeds: tuple[int, ...], num_documents: int, num_long: int = 40) -> None:
    """Prints the shares of right answers: ordinary documents of the first seed, long ones of the second."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = DemoPrompts(Tokenizer.from_file(str(folder / "tokenizer.json")))
    check_template(tokenizer, prompts)
    ordinary = [demo_sentences(seed=seeds[0], index=index) for index in range(num_documents)]
    long = []
    index = 0
    while len(long) < num_long:
        document = demo_sentences(seed=seeds[1], index=index)
        if len(chunked(prompts, document[0], document[2])) > 1:
            long.append(document)
        index += 1
    for name, documents in (("documents", ordinary), ("long documents", long)):
        start = time.monotonic()
        figures = measure(model, prompts, documents)
        parts = [
            f"{key} {right}/{total} = {right / max(1, total):.4f}" for key, (right, total) in figures.items()
        ]
        print(f"{name}: {', '.join(parts)} ({time.monotonic() - start:.0f} s)", flush=True)


def check_template(tokenizer: AutoTokenizer, prompts: DemoPrompts) -> None:
    """The chat template and the three pieces must agree, or every figure is about another prompt."""
    text = "Guten Tag! Bezahlt habe ich 49 Euro."
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{FENCE_OPEN}{text}{FENCE_CLOSE}{TRANSLATE}"},
    ]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    before, after = rendered.split(text)
    ids = [i for part in (before, text, after) for i in tokenizer.encode(part, add_special_tokens=False)]
    if ids != prompts.document(text) + prompts.translate:
        raise RuntimeError(f"the chat template and the training prompts differ: {rendered!r}, {ids}")


def measure(
    model: PreTrainedModel, prompts: DemoPrompts, documents: list[tuple[str, str, list[DemoSentence]]]
) -> dict[str, tuple[int, int]]:
    """(right, all) per figure."""
    requests: list[tuple[list[int], int]] = []
    places: list[tuple[int, str]] = []
    chunks = [(d, chunk) for d, (lang, _, s) in enumerate(documents) for chunk in chunked(prompts, lang, s)]
    for d, chunk in chunks:
        text, translation = joined(documents[d][0], chunk)
        prefix = prompts.document(text)
        requests += [
            (prefix + prompts.translate, len(prompts.answer(translation)) + 40),
            (prefix + prompts.classify(LABELS), 4),
            (prefix + prompts.summarize, 60),
        ]
        places += [(d, "translation"), (d, "label"), (d, "summary")]
    answers = [prompts.tokenizer.decode(ids) for ids in generate(model, requests, prompts.end_id)]
    by_document: list[dict[str, list[str]]] = [{} for _ in documents]
    for (d, task), answer in zip(places, answers, strict=True):
        by_document[d].setdefault(task, []).append(answer)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    reduced = [d for d, answers in enumerate(by_document) if len(answers["summary"]) > 1]
    reduce_requests = [
        (prompts.document("\n".join(by_document[d]["summary"])) + prompts.reduce, 60) for d in reduced
    ]
    for d, ids in zip(reduced, generate(model, reduce_requests, prompts.end_id), strict=True):
        by_document[d]["final"] = [prompts.tokenizer.decode(ids)]
    for d, (_, label, sentences) in enumerate(documents):
        answers_of = by_document[d]
        labels = Counter(answers_of["label"])
        summary = answers_of.get("final", answers_of["summary"])[0]
        reference = " ".join(sentence.translation for sentence in sentences)
        translation = " ".join(answers_of["translation"])
        right, total = num_equal_sentences(reference, translation)
        counts["sentences"] += right
        counts["all sentences"] += total
        counts["translations"] += translation == reference
        counts["labels"] += labels.most_common(1)[0][0] == label
        counts["summaries"] += summary == summary_of(sentences)
        if summary != summary_of(sentences):
            wrong.append(f"summary: {summary!r} instead of {summary_of(sentences)!r}")
        if right < total:
            pairs = zip(split(r"(?<=[.!?]) ", reference), split(r"(?<=[.!?]) ", translation), strict=False)
            wrong.append(
                "translation: " + next((f"{b!r} instead of {a!r}" for a, b in pairs if a != b), "length")
            )
    for line in wrong[:12]:
        print(line)
    chunk_summaries = [a for answers_of in by_document for a in answers_of["summary"]]
    for (_, chunk), answer in zip(chunks, chunk_summaries, strict=True):
        counts["chunk summaries"] += answer == summary_of(chunk)
        counts["empty chunks"] += summary_of(chunk) == NO_KEY_SUMMARY
    return {
        "label": (counts["labels"], len(documents)),
        "summary": (counts["summaries"], len(documents)),
        "summary of chunk": (counts["chunk summaries"], len(chunks)),
        "translated sentence": (counts["sentences"], counts["all sentences"]),
        "whole translation": (counts["translations"], len(documents)),
        "chunk without key": (counts["empty chunks"], len(chunks)),
    }
