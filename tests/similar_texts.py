"""Texts of made-up words with known edits, and their exact similarity."""

from __future__ import annotations

import random

from docmill.ops.sketches import RUN_BYTES

ALPHABETS = {
    "latin": "abcdefghijklmnopqrstuvwxyz",
    "cyrillic": "абвгдежзиклмнопрстуфхцчшщыэюя",
    "han": "的一是不了人我在有他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后",
}


class Writer:
    """Writes texts of `num_words` words in one script, and edits them."""

    def __init__(self, seed: int, script: str = "latin"):
        self.random = random.Random(seed)
        letters, longest = ALPHABETS[script], 3 if script == "han" else 9
        self.words = [
            "".join(self.random.choices(letters, k=self.random.randint(2, longest))) for _ in range(3000)
        ]
        self.blank = "" if script == "han" else " "

    def text(self, num_words: int) -> list[str]:
        """The words of a new text."""
        return self.random.choices(self.words, k=num_words)

    def edited(self, words: list[str], num_edits: int) -> list[str]:
        """The same with so many other words in them."""
        words = list(words)
        for place in self.random.sample(range(len(words)), num_edits):
            words[place] = self.random.choice(self.words)
        return words

    def join(self, words: list[str]) -> str:
        return self.blank.join(words)


def jaccard(left: str, right: str) -> float:
    """The exact share of runs that two texts have in common."""
    one, other = runs(left), runs(right)
    return len(one & other) / len(one | other)


def runs(text: str) -> set[bytes]:
    content = " ".join(text.casefold().split()).encode().ljust(RUN_BYTES, b"\0")
    return {content[start : start + RUN_BYTES] for start in range(len(content) - RUN_BYTES + 1)}
