"""Makes the demo model's tokenizer.

Byte-level BPE, so that every text can be encoded; digits one by one, so that numbers can be copied. The fixed
strings of our prompts are single tokens: a whole prompt costs about a dozen tokens beside its document.
"""

import json
from pathlib import Path

from prompts import CLASSIFY, FIXED_STRINGS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from docmill.data.demo.corpus import LABELS, LANGUAGES, NO_KEY_SUMMARY, demo_sentences, weighted_templates

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in r".?<>/|()[]{}*+^$\\" else c for c in text)


def build_tokenizer(*, vocab_size: int = 4096) -> Tokenizer:
    """Learns the corpus' words; Chinese only from whole phrases between slots, so that slots stay their own tokens."""
    words = r"\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
    pattern = "|".join([*map(_escaped, FIXED_STRINGS), words])
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(FIXED_STRINGS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*LABELS] * 2000 + [f"{CLASSIFY} " + ", ".join(LABELS) + "."] * 500 + [NO_KEY_SUMMARY] * 500
    texts = [text.removeprefix(CLASSIFY) for text in texts]
    for language in LANGUAGES:
        for fixed, slots, weight in weighted_templates(language):
            if language == "zh":
                texts += [part for part in fixed for _ in range(3 * weight)]
                texts += [value for values in slots if len(values) < 60 for value in values * 12]
    for index in range(8000):
        language, _, sentences = demo_sentences(seed=77, index=index)
        if language == "de":
            texts += [" ".join(sentence.text for sentence in sentences)]
        texts += [" ".join(f"{sentence.translation} {sentence.summary}" for sentence in sentences)]
        texts += [sentence.summary for sentence in sentences if sentence.summary]
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in FIXED_STRINGS:
        piece = to_bytes.pre_tokenize_str(text)[0][0]
        state["model"]["vocab"][piece] = len(state["model"]["vocab"])
    return Tokenizer.from_str(json.dumps(state))


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
