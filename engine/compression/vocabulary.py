"""A tokenizer.json with fewer tokens, which cuts text into the same pieces as long as it has them all.

Two kinds of BPE are known: over bytes (GPT-2, Llama 3, Qwen), and over characters with bytes for those that are not in
the vocabulary (Llama 2, Mistral). In both every text stays encodable while the single bytes stay.

BPE joins neighbours, the pair of the lowest rank first. A token that an encoding ends with was made inside its own
span alone, by the same joins as when its text is encoded by itself: no join ever crossed the span's ends. So a token
that stays needs just the tokens of that one derivation. While these stay with their merges, ranks in the old order, and
all that encoding joins is there, each step finds the same pair of the lowest rank as before; merges that are gone were
never the lowest. Hence the promise: a text whose tokens all stay is cut as before. Any other text can still be encoded,
as a rule into more tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from docmill.engine.errors import ModelError

Spec = dict[str, Any]  # a tokenizer.json
BLANK = (
    "\u2581"  # how a blank is written where bytes are the exception; decoders look for it, not for its bytes
)


def read_tokenizer(folder: Path) -> Spec:
    """Raises `ModelError` where it is not one of the two kinds."""
    path = folder / "tokenizer.json"
    try:
        spec: Spec = json.loads(path.read_bytes())
        model = spec["model"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(str(folder), f"its tokenizer.json cannot be read: {error!r}") from error
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        raise ModelError(str(folder), f"its tokenizer is of the kind {kind}; trimming knows BPE alone")
    odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if odd:
        raise ModelError(str(folder), f"trimming does not know a BPE tokenizer with {', '.join(odd)}")
    if not _is_over_bytes(spec) and not (
        model.get("byte_fallback") and _fallback_bytes() <= model["vocab"].keys()
    ):
        raise ModelError(
            str(folder), "its tokenizer knows characters, and not the single bytes for all others: a text that needs a "
            "token that is gone could not be encoded"
        )  # fmt: skip
    if lost := _frame_ids(spec.get("post_processor")) - set(token_ids(spec).values()):
        raise ModelError(
            str(folder), f"its tokenizer.json puts a token {min(lost)} around texts, and has none of that number"
        )  # fmt: skip
    return spec


def token_ids(spec: Spec) -> dict[str, int]:
    """All tokens, those added to the vocabulary too."""
    return spec["model"]["vocab"] | {token["content"]: token["id"] for token in spec["added_tokens"]}


def indispensable(spec: Spec) -> set[int]:
    """Ids without which some text could not be encoded, framed or padded: bytes, added tokens and those named so."""
    vocabulary = spec["model"]["vocab"]
    pieces = {
        *(_byte_letters() if _is_over_bytes(spec) else _fallback_bytes()),
        BLANK,
        spec["model"].get("unk_token"),
    }
    ids = {vocabulary[piece] for piece in pieces if piece in vocabulary}
    ids |= {token["id"] for token in spec["added_tokens"]} | _frame_ids(spec.get("post_processor"))
    padding = spec.get("padding")
    return ids | ({padding["pad_id"]} & set(token_ids(spec).values()) if padding else set())


def with_derivations(spec: Spec, ids: Iterable[int]) -> set[int]:
    """The ids, with all that BPE joins on its way to them."""
    vocabulary: Mapping[str, int] = spec["model"]["vocab"]
    texts = {number: text for text, number in vocabulary.items()}
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(_merges(spec))))}
    found = set(ids)
    for number in list(found):
        if number in texts:
            found.update(vocabulary[part] for part in _derivation(texts[number], ranks) if part in vocabulary)
    return found


def trimmed(spec: Spec, new_ids: Mapping[int, int]) -> Spec:
    """The tokenizer with the ids in `new_ids` alone, by their new numbers. `spec` stays as it is."""
    out: Spec = json.loads(json.dumps(spec))
    vocabulary = {text: new_ids[old] for text, old in spec["model"]["vocab"].items() if old in new_ids}
    merges = spec["model"]["merges"]
    stays = [{left, right, left + right} <= vocabulary.keys() for left, right in _merges(spec)]
    out["model"]["vocab"] = vocabulary
    out["model"]["merges"] = [merge for merge, here in zip(merges, stays, strict=True) if here]
    for token in out["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber_frame(out.get("post_processor"), new_ids)
    if out.get("padding"):
        if (padding_id := out["padding"]["pad_id"]) in new_ids:
            out["padding"]["pad_id"] = new_ids[padding_id]
        else:  # a number that is no token's
            out["padding"] = None
    return out


def _frame_ids(processor: Spec | None) -> set[int]:
    """Ids of what the tokenizer itself puts around a text."""
    if not processor:
        return set()
    ids = {processor[name][1] for name in ("sep", "cls") if name in processor}
    for part in processor.get("processors", []):
        ids |= _frame_ids(part)
    if processor["type"] == "TemplateProcessing":
        ids.update(old for token in processor["special_tokens"].values() for old in token["ids"])
    return ids


def _renumber_frame(processor: Spec | None, new_ids: Mapping[int, int]) -> None:
    """In place: what the tokenizer itself puts around a text."""
    if not processor:
        return
    for part in processor.get("processors", []):
        _renumber_frame(part, new_ids)
    for name in ("sep", "cls"):  # of BERT's and RoBERTa's kind: (text, id)
        if name in processor:
            processor[name] = [processor[name][0], new_ids[processor[name][1]]]
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new_ids[old] for old in token["ids"]]


def _derivation(text: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """All pieces on the way from single letters to `text`; empty where BPE does not get there."""
    pieces = list(text)
    seen = set(pieces)
    while len(pieces) > 1:
        ranked = enumerate(pairwise(pieces))
        rank, at = min((ranks.get(pair, len(ranks)), place) for place, pair in ranked)
        if rank == len(ranks):
            return set()
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        seen.add(pieces[at])
    return seen


def _merges(spec: Spec) -> list[tuple[str, str]]:
    """In order of rank. Old files write a pair as one string with a blank in it."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in spec["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _is_over_bytes(spec: Spec) -> bool:
    parts = [spec.get("normalizer"), spec.get("pre_tokenizer")]
    while parts:
        part = parts.pop()
        if part and part["type"] == "ByteLevel":
            return True
        parts += (part or {}).get("pretokenizers", []) + (part or {}).get("normalizers", [])
    return False


def _byte_letters() -> set[str]:
    """The 256 letters that stand for the bytes in a vocabulary over bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return set(ByteLevel.alphabet())


def _fallback_bytes() -> set[str]:
    return {f"<0x{byte:02X}>" for byte in range(256)}
