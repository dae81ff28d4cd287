"""Texts that begin alike: found, put next to one another where that gains something, and kept on one worker."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pyarrow as pa
import pytest
from counting_engine import CountingEngine

from docmill.data.utf8 import OPENING_BYTES, text_keys
from docmill.engine.tokenizer import ModelTokenizer
from docmill.ops.openings import common_opening, order_by_opening

HEADS = [f"{letter} writes to us. ".ljust(OPENING_BYTES + 40, letter) for letter in "abcd"]


def test_an_opening_is_that_of_longer_texts_with_the_same_first_bytes() -> None:
    head = "ä" * (OPENING_BYTES // 2)
    texts = [f"{head}one", f"{head}two", head, "short", None, f"x{head}one"]
    keys, openings = text_keys(pa.array(texts, pa.string()))
    assert len(set(keys)) == len(texts)
    assert openings[0] == openings[1] != openings[5]
    assert openings[2:5] == [0, 0, 0]


def test_a_common_opening_is_that_of_half_the_rows() -> None:
    assert common_opening([7, 7, 3, 4]) == 7
    assert common_opening([7, 7, 3, 4, 5]) == 0
    assert common_opening([0, 0, 0, 9]) == 0
    assert common_opening([]) == 0


def test_texts_that_begin_alike_become_neighbours() -> None:
    texts = [f"{HEADS[number % 4]} message {number}" for number in range(40)]
    order = order_by_opening(texts)
    assert order is not None
    assert sorted(order) == list(range(40))
    groups = [key for key, _ in groupby(texts[position][:OPENING_BYTES] for position in order)]
    assert len(groups) == 4


@pytest.mark.parametrize(
    "texts",
    [
        [f"message {number}" for number in range(40)],  # too short to share anything
        [f"{number} " + HEADS[0] for number in range(40)],  # differ at once
        [f"{HEADS[number // 10]} {number}" for number in range(40)],  # stand together already
        [None, "", "one"],
        [],
    ],
)
def test_where_nothing_is_gained_input_order_stays(texts: list[str | None]) -> None:
    assert order_by_opening(texts) is None


def test_documents_that_begin_alike_are_asked_about_one_after_another_and_written_in_input_order(
    folder: Any, tokenizer: ModelTokenizer
) -> None:
    folder.write("a", [f"{HEADS[number % 4]} message {number}" for number in range(200)])
    engine = CountingEngine()
    folder.run(engine=engine)
    prompts = [tokenizer.decode(request.prompt_token_ids) for request in engine.requests]
    senders = [prompt.split(" writes to us.")[0][-1] for prompt in prompts]
    assert [sender for sender, _ in groupby(senders)] == ["a", "b", "c", "d"]
    rows = folder.rows("summaries", "a")
    assert [row["doc_id"] for row in rows] == [f"a-{number}" for number in range(200)]
