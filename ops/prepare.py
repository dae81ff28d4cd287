"""Make a row's text fit to be asked about, or say why it cannot be. Neutral to language: words are never touched."""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from docmill.data.records import Document, Status

# C0 and C1 controls but tab and newline, the BOM, and what is no character at all (U+FFFE, U+FFFF).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_LINE_BREAK = re.compile("\r\n?|\x0b|\x0c|\x85|\u2028|\u2029")
# Looked at once from its start and never given back (++): a megabyte of blanks would else take its square in steps.
_TRAILING_BLANKS = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]++(?=\n)")
_BLANK_LINES = re.compile(r"\n{3,}")
# As Unicode's "stream-safe" text: no language puts more marks on a letter.
_MAX_MARKS = 30


class Prepare(BaseModel):
    """What the job does with odd texts. Lengths are in characters, after cleaning."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    normalization: Literal["NFC", "NFKC", "none"] = "NFC"
    """NFKC also unifies look-alikes, and loses e.g. superscripts."""
    min_chars: Annotated[int, Field(ge=1)] = 1
    """Shorter rows are skipped."""
    max_chars: Annotated[int, Field(ge=1)] = 1_000_000
    """A row beyond this is some 250,000 tokens: mostly an accident."""
    too_long: Literal["fail", "truncate"] = "fail"
    duplicate_ids: Literal["fail", "keep"] = "fail"
    """fail: the first row of an id is asked, later ones are failed rows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row is not asked about. `reason` is a fixed word that the report counts by."""

    status: Status
    reason: str
    explanation: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.explanation}"


@dataclass(frozen=True, slots=True)
class PreparedText:
    """Clean text. `truncated` where the job cut it at `max_chars`."""

    text: str
    truncated: bool = False


def prepare(document: Document, config: Prepare) -> PreparedText | Refusal:
    """Clean one document's text and apply the length policy."""
    if document.doc_id is None:
        return Refusal(Status.FAILED, "id_missing", "the id is null; give every row an id")
    if document.text is None:
        return Refusal(Status.FAILED, "text_missing", "the text is null")
    text = clean(document.text, config.normalization)
    if not text:
        return Refusal(Status.SKIPPED, "text_empty", "no text is left after cleaning")
    if len(text) < config.min_chars:
        return Refusal(
            Status.SKIPPED, "text_too_short", f"{len(text)} characters, the job wants {config.min_chars}"
        )
    if len(text) <= config.max_chars:
        return PreparedText(text)
    if config.too_long == "truncate":
        return PreparedText(text[: config.max_chars].rstrip(), truncated=True)
    return Refusal(
        Status.FAILED, "text_too_long",
        f"{len(text)} characters, the job takes {config.max_chars}; raise prepare.max_chars or set too_long: truncate",
    )  # fmt: skip


def clean(text: str, normalization: Literal["NFC", "NFKC", "none"]) -> str:
    """Same text with one kind of line break, no control characters, no trailing blanks, no runs of empty lines."""
    if normalization != "none" and not text.isascii():
        text = _normalize(text, normalization)
    text = _LINE_BREAK.sub("\n", text)
    text = _CONTROL.sub("", text)
    text = _TRAILING_BLANKS.sub("", text)
    return _BLANK_LINES.sub("\n\n", text).strip()


def _normalize(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """Normalise all but endless runs of combining marks: sorting one takes the square of its length."""
    if not any(map(unicodedata.combining, text[::_MAX_MARKS])):  # every such run would hold one of these
        return unicodedata.normalize(form, text)
    parts = _mark_runs().split(text)  # text, run, text, run, ..., text
    parts[::2] = [unicodedata.normalize(form, part) for part in parts[::2]]
    return "".join(parts)


@cache
def _mark_runs() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code)))
    return re.compile(f"([{marks}]{{{_MAX_MARKS + 1},}})")
