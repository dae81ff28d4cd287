"""Prompts with the document first, so that all tasks on a document share their longest prefix.

    [system][user: <document> TEXT </document>  INSTRUCTION][assistant:

The frame is rendered through the model's own chat template; the document's tokens are put into it as data, see
`engine.tokenizer`. A text that itself holds the closing fence gets another fence.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.errors import JobError

SYSTEM_PROMPT = "Follow the instruction that comes after the document."
_SLOT = "docmill:here-stands-the-document"


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids before and behind the document's."""

    before: array[int]
    behind: array[int]

    @property
    def num_tokens(self) -> int:
        """What this frame takes of the model's context."""
        return len(self.before) + len(self.behind)


class Prompts:
    """Builds the prompts of one job for one model."""

    def __init__(self, tokenizer: ModelTokenizer, system_prompt: str = SYSTEM_PROMPT):
        self.tokenizer = tokenizer
        self._system_prompt = system_prompt
        self.frame = lru_cache(maxsize=1024)(self._frame)

    def render(self, text: str, token_ids: Sequence[int], instruction: str) -> array[int]:
        """The whole prompt for one instruction about one text, whose token ids are given."""
        frame = self.frame_of(text, instruction)
        return frame.before + array("i", token_ids) + frame.behind

    def frame_of(self, text: str, instruction: str) -> Frame:
        """What stands around this text."""
        return self.frame(instruction, _fence(text))

    def num_frame_tokens(self, instruction: str) -> int:
        """What the frame takes of the model's context, at most: a fence with a number takes more than one without."""
        return max(self.frame(instruction, fence).num_tokens for fence in ("document", "document-9999"))

    def _frame(self, instruction: str, fence: str = "document") -> Frame:
        instruction = (
            instruction.strip()
        )  # many templates strip a message, and YAML blocks end with a line break
        rendered = self.tokenizer.render_chat(
            self._system_prompt, f"<{fence}>\n{_SLOT}\n</{fence}>\n\n{instruction}"
        )
        before, slot, behind = rendered.partition(_SLOT)
        if not slot or instruction not in behind:
            raise JobError(
                "model", ["its chat template drops or rewrites the user's message; docmill cannot use it"]
            )
        encode = self.tokenizer.encode_trusted
        return Frame(array("i", encode(before)), array("i", encode(behind)))


def _fence(text: str) -> str:
    """A tag that the text does not close."""
    fence, number = "document", 0
    while f"</{fence}" in text:
        number += 1
        fence = f"document-{number}"
    return fence
