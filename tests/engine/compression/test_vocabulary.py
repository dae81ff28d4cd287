"""What a tokenizer promises after tokens were taken out, on three kinds of BPE."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from docmill.data.demo import demo_documents
from docmill.engine.compression.vocabulary import indispensable, read_tokenizer, trimmed, with_derivations
from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError
from docmill.engine.model_files import resolve_model

DEMO = Path(resolve_model(ModelConfig()))
DOCUMENTS = [document.text for document in demo_documents(seed=31, num_documents=60)]
QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_style() -> Tokenizer:
    """Over bytes, NFC, added tokens behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(DOCUMENTS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def llama_3_style() -> Tokenizer:
    """The same, and a token in front of every text."""
    tokenizer = qwen_style()
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", end)]),
        ]
    )
    return tokenizer


def llama_2_style() -> Tokenizer:
    """Over characters, with bytes for all others; blanks are written as a letter, and nothing is cut before BPE."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=first, show_progress=False, max_token_length=12
    )
    tokenizer.train_from_iterator([word for text in DOCUMENTS for word in text.split()], trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(spec))


def demo_style() -> Tokenizer:
    """Over bytes; whole sentences of the prompts are tokens that no merge leads to."""
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


STYLES = {style.__name__: style for style in (demo_style, qwen_style, llama_3_style, llama_2_style)}


@cache
def source(style: str) -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = STYLES[style]()
    return tokenizer, json.loads(tokenizer.to_str())


words = st.sampled_from(sorted({word for text in DOCUMENTS for word in text.split()}))
texts = st.one_of(
    st.lists(words, max_size=6).map(" ".join),
    st.lists(words, max_size=4).map("".join),
    st.text(max_size=20),
    st.sampled_from(DOCUMENTS),
)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seen=st.lists(texts, max_size=8), text=texts)
def test_texts_of_kept_tokens_are_cut_as_before_and_all_others_still_encode(
    style: str, seen: list[str], text: str
) -> None:
    tokenizer, spec = source(style)
    ids = {one for encoding in tokenizer.encode_batch(seen) for one in encoding.ids}
    old_ids = sorted(with_derivations(spec, ids | indispensable(spec)))
    after = Tokenizer.from_str(json.dumps(trimmed(spec, {old: new for new, old in enumerate(old_ids)})))
    assert after.get_vocab_size() == len(old_ids)
    for one in [text, *seen]:
        before, now = tokenizer.encode(one), after.encode(one)
        assert after.decode(now.ids) == tokenizer.decode(before.ids)
        if one in seen or set(before.ids) <= set(old_ids):
            assert [old_ids[number] for number in now.ids] == before.ids
            assert now.tokens == before.tokens


@pytest.mark.parametrize("style", STYLES)
def test_a_derivation_is_kept_and_nothing_that_is_not_needed(style: str) -> None:
    """Taking out any one more token of a closed set breaks a token of it, or is a token itself that was asked for."""
    tokenizer, spec = source(style)
    asked = set(tokenizer.encode(DOCUMENTS[0]).ids)
    first = indispensable(spec)
    closed = with_derivations(spec, asked | first)
    assert len(closed) < tokenizer.get_vocab_size()
    assert with_derivations(spec, closed) == closed
    texts = {number: text for text, number in spec["model"]["vocab"].items()}
    for extra in sorted(closed - asked - first):
        left = closed - {extra}
        smaller = trimmed(spec, {old: new for new, old in enumerate(sorted(left))})
        # By merges alone, as inside a longer word.
        model = Tokenizer.from_str(
            json.dumps(smaller | {"model": smaller["model"] | {"ignore_merges": False}})
        ).model
        assert any(len(model.tokenize(texts[one])) > 1 for one in asked if one in texts), texts[extra]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "Unigram"}, "of the kind Unigram"),
        ({"end_of_word_suffix": "</w>"}, "with end_of_word_suffix"),
        ({"dropout": 0.1}, "with dropout"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    _, spec = source("qwen_style")
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"model": spec["model"] | change}))
    with pytest.raises(ModelError, match=said):
        read_tokenizer(tmp_path)


def test_characters_without_bytes_for_the_others_are_refused(tmp_path: Path) -> None:
    _, spec = source("llama_2_style")
    fallback = spec["model"] | {"byte_fallback": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"model": fallback}))
    with pytest.raises(ModelError, match="single bytes"):
        read_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_tokenizer(tmp_path / "nothing")


def test_what_pads_and_frames_texts_stays_if_there_is_such_a_token(tmp_path: Path) -> None:
    _, spec = source("llama_3_style")
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    longest = max(spec["model"]["vocab"].values())
    for pad_id, stays in ((longest, True), (9999, False)):
        padded = spec | {"padding": padding | {"pad_id": pad_id, "pad_token": "x"}}
        old_ids = sorted(with_derivations(padded, indispensable(padded)))
        assert (pad_id in old_ids) == stays
        made = trimmed(padded, {old: new for new, old in enumerate(old_ids)})
        assert made["padding"] == (padded["padding"] | {"pad_id": old_ids.index(pad_id)} if stays else None)
        Tokenizer.from_str(json.dumps(made))
    frame = json.loads(json.dumps(spec["post_processor"]))
    frame["processors"][1]["special_tokens"]["<|endoftext|>"]["ids"] = [9999]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"post_processor": frame}))
    with pytest.raises(ModelError, match="puts a token 9999 around texts"):
        read_tokenizer(tmp_path)
