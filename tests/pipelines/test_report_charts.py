"""The drawings: plain SVG in the page's colours, whatever the numbers and names are."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from docmill.pipelines.report_charts import (
    MOST_LABELS,
    SVG,
    VARIABLES,
    Picture,
    bars,
    clock,
    columns,
    over_time,
    shares,
)


def texts(picture: Picture) -> list[str]:
    root = ElementTree.fromstring(str(picture.svg))
    return ["".join(node.itertext()) for node in root.iter(f"{{{SVG}}}text")]


def number(value: float) -> str:
    return f"{value:g}"


PICTURES = {
    "over_time": over_time("t", [1.0, 2.0, 3.0], {"a": [1, 5, 2], "b": [0, 0, 0]}, shown_as=number),
    "bars": bars("b", ["a<b>&\"'", "$x_1$"], {"first": [1.5, None], "second": [3.0, 0.0]}, shown_as=number),
    "shares": shares("s", {"full": 9.0, "starved": 1.0, "writing": 0.0}, shown_as=number),
    "columns": columns("c", ["1", "2"], {"a": [1, 2], "b": [3, None]}, shown_as=number),
    # Nothing was computed, nothing cost anything.
    "idle": over_time("i", [1.0, 2.0], {"a": [0.0, 0.0]}, shown_as=number),
    "free": bars("f", ["a"], {"USD": [0.0]}, shown_as=number),
    "empty": columns("e", ["1"], {"a": [0]}, shown_as=number),
    "unfed": shares("u", {"full": 0.0}, shown_as=number),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_no_script_no_style_no_address_and_the_pages_colours(name: str) -> None:
    svg = str(PICTURES[name].svg)
    assert svg.startswith("<svg ")
    assert not re.search(r"<script|<style|<metadata|<image|<!DOCTYPE", svg)
    assert set(re.findall(r"https?://[^\"]+", svg)) <= {SVG, "http://www.w3.org/1999/xlink"}
    assert "var(--" in svg
    assert not any(color in svg for color in VARIABLES)
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()  # a colour of its own is unreadable on one ground
    assert f'aria-label="{PICTURES[name].caption}"' in svg


def test_names_are_text_whatever_they_hold() -> None:
    assert {"a<b>&\"'", "$x_1$"} <= set(texts(PICTURES["bars"]))
    assert "<b>" not in str(PICTURES["bars"].svg)


def test_each_bar_has_its_number_and_an_unknown_one_none() -> None:
    assert [text for text in texts(PICTURES["bars"]) if text in ("1.5", "3", "0")] == ["1.5", "3", "0"]


def test_the_parts_of_a_whole_are_named_with_their_numbers() -> None:
    assert {"full 9", "starved 1", "writing 0"} <= set(texts(PICTURES["shares"]))


@pytest.mark.parametrize(
    ("labels", "most"),
    [
        ([str(number) for number in range(40)], MOST_LABELS),
        ([f"2026-11-{day:02}" for day in range(1, 15)], 4),  # long ones would run into each other
        (["a"], 1),
    ],
)
def test_there_are_no_more_labels_than_have_room(labels: list[str], most: int) -> None:
    picture = columns("c", labels, {"a": [1.0] * len(labels)}, shown_as=lambda _: "-")
    shown = [text for text in texts(picture) if text in labels]
    assert shown[0] == labels[0]
    assert len(shown) <= most


def test_names_inside_two_pictures_of_a_page_differ() -> None:
    first, second = (
        over_time(caption, [1.0, 2.0], {"a": [1, 2]}, shown_as=number) for caption in ("one", "another")
    )
    names = [set(re.findall(r'\bid="([^"]+)"', str(picture.svg))) for picture in (first, second)]
    assert names[0]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (90, "90 s"), (600, "10 min"), (5400, "90 min"), (9000, "2.5 h")]
)
def test_times_are_told_in_the_unit_that_suits_them(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected
