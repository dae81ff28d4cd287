"""The prompts that the demo model is trained on, as token ids; `docmill.ops` makes the same from its own templates."""

from tokenizers import Tokenizer

SYSTEM = "Follow the instruction that comes after the document."
FENCE_OPEN, FENCE_CLOSE = "<document>\n", "\n</document>\n\n"
TRANSLATE = "Translate the document into English. Answer with the translation only."
CLASSIFY = "Which label fits the document best? Answer with one label only. Labels:"
SUMMARIZE = "Summarize the document in one sentence in English. Answer with the summary only."
REDUCE = (
    "The document lists summaries of the parts of one longer document. Combine them into one sentence in English. "
    "Answer with the summary only."
)
FIXED_STRINGS = (
    f"system\n{SYSTEM}", f"user\n{FENCE_OPEN}", FENCE_CLOSE, TRANSLATE, CLASSIFY, SUMMARIZE, REDUCE, "assistant\n",
)  # fmt: skip


class DemoPrompts:
    """Token ids of the prompts, in the three pieces in which docmill tokenises them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.end_id = tokenizer.token_to_id("<|im_end|>")
        self.pad_id = tokenizer.token_to_id("<|endoftext|>")
        self.digit_ids = [tokenizer.token_to_id(str(digit)) for digit in range(10)]
        self._prefix = self._ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{FENCE_OPEN}")
        self.translate = self._suffix(TRANSLATE)
        self.summarize = self._suffix(SUMMARIZE)
        self.reduce = self._suffix(REDUCE)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _suffix(self, instruction: str) -> list[int]:
        return self._ids(f"{FENCE_CLOSE}{instruction}<|im_end|>\n<|im_start|>assistant\n")

    def classify(self, labels: list[str] | tuple[str, ...]) -> list[int]:
        return self._suffix(f"{CLASSIFY} " + ", ".join(labels) + ".")

    def document(self, text: str) -> list[int]:
        """System message and document. The corpus holds no control token, so none can be parsed here."""
        return self._prefix + self._ids(text)

    def answer(self, text: str) -> list[int]:
        return [*self._ids(text), self.end_id]

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(e.ids) for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def token_ends(self, text: str) -> list[int]:
        """Where in `text` each token ends, in characters."""
        return [end for _, end in self.tokenizer.encode(text, add_special_tokens=False).offsets]
