"""A model that is nearly all vocabulary, with random weights and a tokenizer that goes with it."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel


def large_checkpoint(folder: Path, *, rows: int, hidden_size: int = 64) -> None:
    """Random weights, tiny layers, in two files; bytes, pairs and triples of them up to `rows`, less some padding."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    letters = sorted(ByteLevel.alphabet())
    pairs = [(left, right) for left in letters for right in letters]
    drawn = random.Random(5).sample(range(len(pairs) * len(letters)), rows - len(pairs) - 600)
    triples = [("".join(pairs[one // len(letters)]), letters[one % len(letters)]) for one in drawn]
    merges = [*pairs, *triples]
    vocabulary = {piece: number for number, piece in enumerate([*letters, *map("".join, merges)])}
    special = [len(vocabulary) + number for number in range(3)]
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=rows, hidden_size=hidden_size, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=False, bos_token_id=special[0],
        eos_token_id=special[1:], pad_token_id=special[0],
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config.update(suppress_tokens=[letters.index("a"), len(vocabulary) - 1])
    model.save_pretrained(folder, max_shard_size="30MB")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    spec = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "added_tokens": [
            {"id": number, "content": f"<|special-{number}|>", "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
            for number in special
        ],
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(token["id"]): {name: value for name, value in token.items() if name != "id"}
            for token in spec["added_tokens"]
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
