"""The pictures of a run's page, drawn by Matplotlib as SVG. They hold no script and no address.

Their colours are variables of the page's style sheet (`report_page.html`), so that one drawing is readable on a light
and on a dark ground, and their letters are text in the reader's own font. Drawn at about the size at which they are
shown: text in a picture that is scaled down cannot be read on a telephone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 4.4, 2.3  # inches, of 72 units of the drawing
BAR_HEIGHT = 0.24  # of one lying bar with the space around it
MOST_LABELS = 7  # under a picture
LABEL_CHARS = 50  # of all of them
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# Colours that Matplotlib draws with -> variables of the style sheet; any will do that no drawing has otherwise.
INK, QUIET, LINE = "#00000a", "#00000b", "#00000c"
SERIES = tuple(f"#0000{number:02x}" for number in range(0xC0, 0xC6))  # further series begin again
VARIABLES = {INK: "--ink", QUIET: "--quiet", LINE: "--line"} | {
    color: f"--c{number}" for number, color in enumerate(SERIES)
}

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # Matplotlib brings it; measured with it, most fonts need less room
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.borderaxespad": 0.2,
    "legend.labelcolor": QUIET,
}

Format = Callable[[float], str]


@dataclass(frozen=True)
class Picture:
    """A drawing, and what it shows in a few words."""

    caption: str
    svg: Markup


def over_time(
    caption: str,
    seconds: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    shown_as: Format,
    highest: float | None = None,
) -> Picture:
    """Lines over the seconds of a run. `highest`: the top of the picture; without it that of the lines."""
    with _drawing(caption) as (axes, picture):
        for color, (name, values) in zip(_colors(), lines.items(), strict=False):
            axes.plot(seconds, values, color=color, linewidth=1.4, label=name)
            axes.fill_between(seconds, values, color=color, alpha=0.12, linewidth=0)
        axes.set_xlim(0, seconds[-1])
        axes.set_ylim(0, highest or max(map(max, lines.values())) * 1.05 or 1.0)
        axes.set_xticks(_ticks(seconds[-1]), [clock(tick) for tick in _ticks(seconds[-1])])
        _number_axis(axes, shown_as)
        _legend(axes, len(lines))
    return picture()


def bars(
    caption: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, shown_as: Format
) -> Picture:
    """Lying bars, a row for each name, with their numbers."""
    thickness = 0.8 / len(series)
    with _drawing(caption, height=0.45 + BAR_HEIGHT * len(names) * len(series)) as (axes, picture):
        for place, (color, (name, values)) in enumerate(zip(_colors(), series.items(), strict=False)):
            rows = [row + (place - (len(series) - 1) / 2) * thickness for row in range(len(names))]
            drawn = axes.barh(
                rows, [value or 0.0 for value in values], thickness * 0.9, color=color, label=name
            )
            axes.bar_label(drawn, ["" if value is None else shown_as(value) for value in values], padding=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.spines.bottom.set_visible(False)
        longest = max((value or 0.0 for values in series.values() for value in values), default=0.0)
        axes.set_xlim(0, longest * 1.3 or 1.0)  # room for the numbers
        _legend(axes, len(series))
    return picture()


def shares(caption: str, parts: Mapping[str, float], *, shown_as: Format) -> Picture:
    """One lying bar, cut into its parts."""
    with _drawing(caption, height=1.0) as (axes, picture):
        left = 0.0
        for color, (name, value) in zip(_colors(), parts.items(), strict=False):
            axes.barh([0], [value], left=left, color=color, label=f"{name} {shown_as(value)}")
            left += value
        axes.set_xlim(0, left or 1.0)
        axes.set_axis_off()
        _legend(axes, len(parts))
    return picture()


def columns(
    caption: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], *, shown_as: Format
) -> Picture:
    """Standing bars, those of one label on top of each other."""
    with _drawing(caption) as (axes, picture):
        below = [0.0] * len(labels)
        for color, (name, values) in zip(_colors(), series.items(), strict=False):
            heights = [value or 0.0 for value in values]
            axes.bar(range(len(labels)), heights, 0.85, bottom=below, color=color, label=name)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        most = min(MOST_LABELS, max(1, LABEL_CHARS // (2 + max(map(len, labels), default=0))))
        every = math.ceil(len(labels) / most)
        axes.set_xticks(range(0, len(labels), every), labels[::every])
        _number_axis(axes, shown_as)
        _legend(axes, len(series))
    return picture()


def curve(
    caption: str,
    across: Sequence[float],
    up: Sequence[float],
    *,
    marked: tuple[float, float] | None = None,
    across_as: Format,
    up_as: Format,
) -> Picture:
    """A line through points, and one point that is marked."""
    with _drawing(caption) as (axes, picture):
        axes.plot(across, up, color=SERIES[0], linewidth=1.4)
        if marked is not None:
            axes.plot([marked[0]], [marked[1]], "o", color=SERIES[1])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: across_as(value))
        axes.set_ylim(bottom=0)
        _number_axis(axes, up_as)
    return picture()


def cells(
    caption: str, rows: Sequence[str], num_columns: int, kinds: Mapping[tuple[int, int], str]
) -> Picture:
    """A square for each (row, column) in the colour of its kind; where there is none, nothing."""
    with _drawing(caption, height=0.6 + BAR_HEIGHT * len(rows)) as (axes, picture):
        names = sorted(set(kinds.values()))
        for color, name in zip(_colors(), names, strict=False):
            places = [place for place, kind in kinds.items() if kind == name]
            axes.bar(
                [column for _, column in places], 0.86, 0.86,
                bottom=[row - 0.43 for row, _ in places], color=color, label=name,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlim(-0.6, num_columns - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(MOST_LABELS, integer=True))
        axes.invert_yaxis()
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3)
    return picture()


def clock(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`: for axes."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:g} h"


@contextmanager
def _drawing(caption: str, *, height: float = HEIGHT) -> Iterator[tuple[Axes, Callable[[], Picture]]]:
    """Axes to draw on, and what makes a picture of them afterwards."""
    svg = io.StringIO()
    # The salt keeps apart the names that parts of several drawings have on one page.
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": caption}):
        figure = Figure(
            figsize=(WIDTH, height), layout="constrained"
        )  # not by pyplot, which keeps what it draws
        yield figure.add_subplot(), lambda: Picture(caption, _plain(svg.getvalue(), caption))
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})


def _plain(drawing: str, caption: str) -> Markup:
    """For a page: without a style of its own, with the page's colours."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)  # in a page, a browser knows it by this prefix alone
    root = ElementTree.fromstring(drawing)
    for parent in list(root.iter()):
        if parent.tag == f"{{{SVG}}}g":
            parent.attrib.pop("id", None)  # counted anew in each drawing, and used by nobody
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib |= {"class": "chart", "role": "img", "aria-label": caption}
    text = ElementTree.tostring(root, encoding="unicode")
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return Markup(text)  # Matplotlib has escaped what it was given


def _colors() -> Iterator[str]:
    while True:
        yield from SERIES


def _number_axis(axes: Axes, shown_as: Format) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: shown_as(value))
    axes.grid(axis="y")


def _legend(axes: Axes, num_series: int) -> None:
    """Above the picture; a single series is named by the caption."""
    if num_series > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2)


def _ticks(end: float) -> list[float]:
    """Round numbers of seconds from nothing to the end."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
    step = next((step for step in steps if end / step <= MOST_LABELS - 1), math.ceil(end / MOST_LABELS))
    return [float(tick) for tick in range(0, math.floor(end) + 1, step)]
