"""The model's tokenizer, with a separate way in for document text.

A chat model obeys control tokens (`<|im_end|>`, `<tool_call>`, ...). Tokenizers map that *text* to those *tokens*
wherever it stands, so a document that contains it could end its own turn and speak as the system. Here documents go
through a copy of the tokenizer that has no control tokens at all: the same characters become ordinary tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError
from docmill.engine.model_files import resolve_model
from docmill.engine.quiet import quiet_libraries

# Some templates (Llama 3.2, gpt-oss) tell the model today's date. Then the same document would be another request
# after midnight, and nothing of an interrupted night could be used; so every prompt is of this day.
NEVER_TODAY = date(2026, 1, 1)


# Models of which `AutoTokenizer` is known to take tokenizer.json as it stands where their checkpoint asks for that.
# Importing it brings torch with it: 3 s of a processor in every driver and worker.
PLAIN_MODEL_TYPES = frozenset({"llama", "qwen3", "qwen3_moe"})
PLAIN_TOKENIZER_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})


class ModelTokenizer:
    """Text to token ids and back. Thread-safe; batches use all cores. Loading takes seconds: transformers is large."""

    def __init__(self, config: ModelConfig):
        # Imported here: only those who tokenise need it.
        quiet_libraries()
        from tokenizers import Tokenizer

        source = resolve_model(config)
        try:
            self._chat = _tokenizer_class(source).from_pretrained(
                source, revision=config.revision, trust_remote_code=config.trust_remote_code
            )
        except Exception as error:  # `tokenizers` raises plain Exception for a damaged tokenizer.json
            raise ModelError(config.source, f"its tokenizer does not load: {error}") from error
        if not self._chat.is_fast:
            raise ModelError(
                config.source, "docmill needs a fast tokenizer (tokenizer.json); this model has none"
            )
        self._decode = self._chat.backend_tokenizer.decode
        self._source, self._chat_kwargs = config.source, config.chat_template_kwargs
        spec = json.loads(self._chat.backend_tokenizer.to_str())
        # Some models list plain characters, such as a line break, as added tokens; those are in the vocabulary too.
        pieces = spec["model"].get("vocab", {})  # a table, or for Unigram a list of (piece, score)
        vocabulary = set(pieces) if isinstance(pieces, dict) else {piece for piece, _ in pieces}
        self.control_token_ids = frozenset(
            token["id"]
            for token in spec["added_tokens"]
            if token["special"] or token["content"] not in vocabulary
        )
        spec |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._data = Tokenizer.from_str(json.dumps(spec))

    def encode_data(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of document text. No id is a control token, whatever the text says."""
        return [
            encoding.ids for encoding in self._data.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def encode_trusted(self, text: str) -> list[int]:
        """Token ids of our own text, in which control tokens mean what they say."""
        ids: list[int] = self._chat.encode(text, add_special_tokens=False)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer, without control tokens."""
        # Not through transformers: it takes four times as long, and takes blanks away for some old tokenizers.
        text: str = self._decode(token_ids, skip_special_tokens=True)
        return text

    def render_chat(self, system: str, user: str) -> str:
        """The model's own chat template around one system and one user message, up to where the answer starts.

        A model without a template (a base model) gets the two texts, a blank line after each.
        """
        if not self._chat.chat_template:
            return f"{system}\n\n{user}\n\n"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            return self._apply_template(messages)
        except TemplateError:  # some models know no system role
            try:
                return self._apply_template([{"role": "user", "content": f"{system}\n\n{user}"}])
            except TemplateError as error:
                raise ModelError(
                    self._source, f"its chat template refuses a user's message: {error}"
                ) from error

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        kwargs = {"strftime_now": NEVER_TODAY.strftime} | self._chat_kwargs
        rendered: Any = self._chat.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **kwargs
        )
        return str(rendered)


def _tokenizer_class(source: str) -> Any:
    """`AutoTokenizer`, or where its choice is certain, the class that it would choose."""
    model, tokenizer = (_read_json(Path(source, name)) for name in ("config.json", "tokenizer_config.json"))
    if (
        model.get("model_type") in PLAIN_MODEL_TYPES
        and tokenizer.get("tokenizer_class") in PLAIN_TOKENIZER_CLASSES
        and "auto_map" not in tokenizer
        and Path(source, "tokenizer.json").is_file()
    ):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def _read_json(path: Path) -> dict[str, Any]:
    """Empty where there is none, or it is damaged: `AutoTokenizer` says it better."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
