"""Demo documents as a job asks about them, with the bundled model's own greedy answers: what it is compressed on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from docmill.data.demo import LABELS, demo_documents
from docmill.engine.compression.checkpoint import load_model
from docmill.engine.compression.sequences import AskedSequence
from docmill.engine.config import ModelConfig
from docmill.engine.model_files import resolve_model
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.tasks import Classify, Summarize, Translate

DEMO = Path(resolve_model(ModelConfig()))
MAX_DOCUMENT_TOKENS = 128  # the model learned no longer ones; a job cuts them
MAX_ANSWER_TOKENS = 160


def demo_prompts(num_documents: int, *, seed: int, tasks: Sequence[str] = ("translate", "classify", "summarize")
                 ) -> list[list[int]]:  # fmt: skip
    """Prompts of the demo tasks, document by document."""
    tokenizer = ModelTokenizer(ModelConfig())
    prompts = Prompts(tokenizer)
    kinds = {
        "translate": Translate(kind="translate"),
        "classify": Classify(kind="classify", labels=list(LABELS)),
        "summarize": Summarize(kind="summarize"),
    }
    texts = [document.text for document in demo_documents(seed=seed, num_documents=num_documents)]
    found = []
    for text, token_ids in zip(texts, tokenizer.encode_data(texts), strict=True):
        if len(token_ids) > MAX_DOCUMENT_TOKENS:
            continue
        for name in tasks:
            (ask,) = next(kinds[name].ask([Chunk(text, token_ids)], prompts))
            found.append(list(prompts.render(ask.text, ask.token_ids, ask.instruction)))
    return found


def greedy_answers(folder: Path, prompts: Sequence[Sequence[int]], model: object = None) -> list[list[int]]:
    """By transformers, each up to the end token."""
    import torch

    model = model or load_model(folder)
    end = model.generation_config.eos_token_id
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), 64):
        numbers = order[start : start + 64]
        width = max(len(prompts[number]) for number in numbers)
        ids = torch.zeros(len(numbers), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(numbers):
            length = len(prompts[number])
            ids[row, width - length :] = torch.tensor(prompts[number])
            mask[row, width - length :] = 1
        written = model.generate(
            ids, attention_mask=mask, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False, pad_token_id=0
        )[:, width:]
        for row, number in enumerate(numbers):
            answer = written[row].tolist()
            answers[number] = answer[: answer.index(end) + 1] if end in answer else answer
    return [answers[number] for number in range(len(prompts))]


def asked_demo(num_documents: int, *, seed: int) -> list[AskedSequence]:
    """Three sequences a document."""
    prompts = demo_prompts(num_documents, seed=seed)
    return [
        AskedSequence((*prompt, *answer), len(prompt))
        for prompt, answer in zip(prompts, greedy_answers(DEMO, prompts), strict=True)
    ]
