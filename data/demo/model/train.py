"""Trains the demo model: a Qwen3-shaped model of about 3M parameters that knows the demo corpus and our prompts.

    python data/demo/model/train.py --minutes 50 --out data/demo/model
    python data/demo/model/train.py --evaluate-only --out data/demo/model

It stands above all layers and is no part of the package. Two things make it fast enough for two CPU cores:
all tasks of a document share one forward pass over it (as in our prompts, by a mask), and Muon steps.
"""

import argparse
import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from prompts import DemoPrompts
from safetensors.torch import load_file, save_file
from tokenizer_training import build_tokenizer, save_tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn

from docmill.data.demo import values
from docmill.data.demo.corpus import LABELS, LANGUAGES, NO_KEY_SUMMARY, DemoSentence, demo_sentences

# Documents of these seeds are never trained on.
EVALUATION_SEEDS = (900_001, 900_002)
MAX_CHUNK_TOKENS = 320

# These heads (layer: head) are taught where to look while translating: the first at the sentence that is being
# translated, the second at the name, city or product that comes next. Left alone, a small model needs far longer
# to find out where to look than to learn all words.
POINTER_HEADS = {2: 5, 3: 0}
POINTER_WEIGHT = 0.3
SLOT_LOSS = 4.0  # names, places, colours and weekdays are rare among the words of an answer
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


@dataclass(frozen=True)
class Shape:
    """The model's sizes. head_dim must be one that vLLM's CPU attention knows."""

    vocab_size: int
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    num_kv_heads: int = 6
    head_dim: int = 32
    intermediate_size: int = 512
    rope_theta: float = 10000.0
    max_positions: int = 2048

    def config(self, *, eos_token_id: int, pad_token_id: int) -> dict[str, object]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": None,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocab_size,
        }


class Layer(nn.Module):
    """One decoder layer, named as in Qwen3 so that its weights are saved as they are."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, heads = shape.hidden_size, shape.num_heads * shape.head_dim
        kv_heads = shape.num_kv_heads * shape.head_dim
        self.shape = shape
        self.input_layernorm = nn.RMSNorm(hidden, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=1e-6)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(hidden, heads, bias=False),
                "k_proj": nn.Linear(hidden, kv_heads, bias=False),
                "v_proj": nn.Linear(hidden, kv_heads, bias=False),
                "o_proj": nn.Linear(heads, hidden, bias=False),
                "q_norm": nn.RMSNorm(shape.head_dim, eps=1e-6),
                "k_norm": nn.RMSNorm(shape.head_dim, eps=1e-6),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(hidden, shape.intermediate_size, bias=False),
                "up_proj": nn.Linear(hidden, shape.intermediate_size, bias=False),
                "down_proj": nn.Linear(shape.intermediate_size, hidden, bias=False),
            }
        )

    def looks(self, head: int, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """One head's attention, computed once more for the loss: [batch, length, length]."""
        attention, dim = self.self_attn, self.shape.head_dim
        rows = slice(head * dim, (head + 1) * dim)
        h = self.input_layernorm(x)
        q = attention["q_norm"](F.linear(h, attention["q_proj"].weight[rows])).unsqueeze(1)
        k = attention["k_norm"](F.linear(h, attention["k_proj"].weight[rows])).unsqueeze(1)
        scores = (rotate(q, cos, sin) @ rotate(k, cos, sin).mT) * dim**-0.5
        return scores.masked_fill(~mask, -1e9).softmax(dim=-1).squeeze(1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape  # x: [batch, length, hidden]
        attention, dim = self.self_attn, self.shape.head_dim
        h = self.input_layernorm(x)
        q = attention["q_norm"](attention["q_proj"](h).view(batch, length, -1, dim)).transpose(1, 2)
        k = attention["k_norm"](attention["k_proj"](h).view(batch, length, -1, dim)).transpose(1, 2)
        v = attention["v_proj"](h).view(batch, length, -1, dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        x = x + attention["o_proj"](h.transpose(1, 2).reshape(batch, length, -1))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of two halves. x: [batch, heads, length, dim]; cos, sin: [batch, 1, length, dim / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class DemoModel(nn.Module):
    """Qwen3 with tied embeddings: our own few lines, since only the answers need logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-6)
        nn.init.normal_(self.embed_tokens.weight, std=0.04)
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                # Layers that start by adding nothing train more steadily.
                std = 0.0 if "o_proj" in name or "down_proj" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std) if std else nn.init.zeros_(parameter)
        half = shape.head_dim // 2
        frequencies = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(shape.max_positions, dtype=torch.float32)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Last hidden states [batch, length, hidden] and where each pointer head looks [batch, length, length]."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        looks = []
        for number, layer in enumerate(self.layers):
            if number in POINTER_HEADS:
                looks.append(layer.looks(POINTER_HEADS[number], x, cos, sin, mask))
            x = layer(x, cos, sin, mask)
        return self.norm(x), looks


class Muon:
    """Orthogonalised momentum for the matrices (Jordan 2024), all of one size at once, in float32."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95) -> None:
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.shape, []).append(parameter)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.momentum = momentum

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([parameter.grad for parameter in group])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(buffer, self.momentum)
            rows, columns = update.shape[1:]
            update = update.mT if rows > columns else update
            update = update / (update.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
            for _ in range(5):
                gram = update @ update.mT
                update = 3.4445 * update + (-4.7750 * gram + 2.0315 * gram @ gram) @ update
            update = update.mT if rows > columns else update
            scale = lr * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.add_(change, alpha=-scale)


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

    def __init__(self, prompts: DemoPrompts, seed: int, slot_share: float = 0.0) -> None:
        self.slot_share = slot_share
        self.prompts = prompts
        self.seed = seed
        self.index = 0
        self.draw = Random(seed)

    def next_rows(self, progress: float) -> Iterator[Row]:
        draw = self.draw
        language, label, sentences = demo_sentences(seed=self.seed, index=self.index)
        self.index += 1
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
            weights += [SLOT_LOSS if span[:2] != span[2:] else 1.0 for span in spans]
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


def losses(model: DemoModel, batch: Batch, digit_ids: Tensor) -> tuple[Tensor, Tensor]:
    """How wrong the answers are, and how little the pointer heads look at the right sentence."""
    hidden, looks = model(batch.ids, batch.positions, batch.mask)
    logits = hidden.flatten(0, 1)[batch.where] @ model.embed_tokens.weight.T
    answers = F.cross_entropy(logits, batch.targets, reduction="none")
    # Digits are what a small model gets wrong: count them twice.
    weights = batch.weights * (1.0 + torch.isin(batch.targets, digit_ids))
    answer_loss = (answers * weights).sum() / weights.sum()
    if not len(batch.pointers):
        return answer_loss, torch.zeros(())
    row, place, *ends = batch.pointers.unbind(dim=1)
    here = torch.arange(batch.ids.shape[1])
    misses = []
    for look, start, end in zip(looks, ends[::2], ends[1::2], strict=True):
        inside = (here >= start[:, None]) & (here < end[:, None])  # [translated tokens, length]
        misses.append(-((look[row, place] * inside).sum(dim=1) + 1e-4).log().mean())
    return answer_loss, torch.stack(misses).mean()


def learning_rate(progress: float) -> float:
    """Share of the full rate: full for 45 % of the way, then straight down to nearly nothing."""
    return 1.0 if progress < 0.45 else max(0.01, (1.0 - progress) / 0.55)


def train(model: DemoModel, prompts: DemoPrompts, arguments: argparse.Namespace) -> None:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=arguments.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    progress = [arguments.start_at]
    batches = Rows(prompts, arguments.seed, arguments.slot_share).batches(arguments.batch_tokens, progress)
    digit_ids = torch.tensor(prompts.digit_ids)
    start = last_save = time.monotonic()
    smoothed, pointed, num_tokens, step = 0.0, 0.0, 0, 0
    while progress[0] < 1.0:
        batch = collate(next(batches))
        loss, pointer_loss = losses(model, batch, digit_ids)
        (loss + POINTER_WEIGHT * pointer_loss).backward()
        rate = learning_rate(progress[0]) * min(1.0, (step + 1) / 60)
        muon.step(arguments.muon_lr * rate)
        adam.param_groups[0]["lr"] = arguments.adam_lr * rate
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        num_tokens += batch.ids.numel()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                average[name].lerp_(tensor, 1 - min(0.99, step / (step + 20)))
        smoothed = loss.item() if step == 1 else 0.97 * smoothed + 0.03 * loss.item()
        pointed = pointer_loss.item() if step == 1 else 0.97 * pointed + 0.03 * pointer_loss.item()
        minutes = (time.monotonic() - start) / 60
        done = step / arguments.steps if arguments.steps else minutes / arguments.minutes
        progress[0] = arguments.start_at + (1.0 - arguments.start_at) * done
        if step % 25 == 0:
            speed = num_tokens / minutes / 60
            print(
                f"step {step} progress {progress[0]:.3f} minutes {minutes:.1f} tokens/s {speed:.0f}", end=" "
            )
            print(f"loss {smoothed:.4f} pointer {pointed:.4f}", flush=True)
        if time.monotonic() - last_save > 60 * arguments.save_minutes:
            last_save = time.monotonic()
            save(model, average, prompts, arguments.out)
            print(f"saved {arguments.out}", flush=True)
    final = average if arguments.keep_average else model.state_dict()
    save(model, {name: tensor.detach() for name, tensor in final.items()}, prompts, arguments.out)


def save(model: DemoModel, state: dict[str, Tensor], prompts: DemoPrompts, out: Path) -> None:
    """Writes weights, configuration and tokenizer; readers see the old weights or the new ones."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(weights, out / "model.safetensors.new", metadata={"format": "pt"})
    (out / "model.safetensors.new").chmod(0o644)  # safetensors writes for its owner only
    (out / "model.safetensors.new").replace(out / "model.safetensors")
    eos, pad = prompts.end_id, prompts.pad_id
    config = model.shape.config(eos_token_id=eos, pad_token_id=pad)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": eos, "pad_token_id": pad, "do_sample": False, "max_new_tokens": 512}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_tokenizer(prompts.tokenizer, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--steps", type=int, default=0, help="overrides --minutes: repeatable")
    parser.add_argument("--batch-tokens", type=int, default=4500)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--save-minutes", type=float, default=10.0)
    parser.add_argument("--keep-average", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--resume", type=Path, help="folder with weights to start from")
    parser.add_argument(
        "--slot-share", type=float, default=0.0, help="of documents cut to sentences with slots"
    )
    parser.add_argument(
        "--start-at", type=float, default=0.0, help="share of the schedule that --resume has done"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a C++ compiler")
    parser.add_argument("--evaluate-only", action="store_true")
    parser.add_argument("--num-evaluated", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if not arguments.evaluate_only:
        resume = arguments.resume
        prompts = DemoPrompts(
            Tokenizer.from_file(str(resume / "tokenizer.json")) if resume else build_tokenizer()
        )
        shape = Shape(vocab_size=prompts.vocab_size, num_layers=arguments.num_layers)
        model = DemoModel(shape)
        if arguments.resume:
            weights = load_file(arguments.resume / "model.safetensors")
            model.load_state_dict({name.removeprefix("model."): w.float() for name, w in weights.items()})
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {shape.vocab_size}",
            flush=True,
        )
        if arguments.compile:
            for layer in model.layers:
                layer.compile(dynamic=True)
        train(model, prompts, arguments)
    from evaluation import evaluate  # transformers: only where it is needed

    evaluate(arguments.out, seeds=EVALUATION_SEEDS, num_documents=arguments.num_evaluated)


if __name__ == "__main__":
    main()
