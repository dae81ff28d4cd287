"""The pictures of a run's page, drawn by pygal as SVG. They hold no script, no style and no address.

The page's own style sheet colours them (`report_page.html`), so that they are readable on a light and a dark ground.
Drawn at about the size at which they are shown: text in a picture that is scaled down cannot be read on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pygal
from markupsafe import Markup
from pygal.style import Style

WIDTH, HEIGHT = 420, 250
BAR_HEIGHT = 26  # of one bar with the space around it
FONT_SIZE = 12
MOST_LABELS = 6  # under a picture
MOST_COLORS = 6  # of the style sheet; further series begin again

Format = Callable[[float], str]


@dataclass(frozen=True)
class Picture:
    """A drawing, and what it shows in a few words."""

    caption: str
    svg: Markup


_LEFT_OUT = {"defs", "script", "style"}
_OWN_CLASSES = {"tooltip-overlay", "background"}


def over_time(caption: str, seconds: Sequence[float], lines: Mapping[str, Sequence[float]], *, shown_as: Format,
              highest: float | None = None) -> Picture:  # fmt: skip
    """Lines over the seconds of a run. `highest`: the top of the picture; without it that of the lines."""
    chart = pygal.XY(
        **_settings(len(lines)),
        fill=True,
        show_dots=False,
        x_labels=_ticks(seconds[-1]),
        x_value_formatter=clock,
        value_formatter=shown_as,
        range=(0, highest or max(map(max, lines.values())) or 1.0),
    )
    for name, values in lines.items():
        chart.add(name, list(zip(seconds, values, strict=True)))
    return _drawn(chart, caption)


def bars(
    caption: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, shown_as: Format
) -> Picture:
    """Lying bars, a row for each name, with their numbers."""
    num_bars = len(names) * len(series)
    chart = pygal.HorizontalBar(
        **_settings(len(series), height=num_bars * BAR_HEIGHT + 50),
        print_values=True,
        print_values_position="top",
        show_x_labels=False,  # of the numbers: pygal calls the axes by where they are drawn
        show_y_guides=False,
        value_formatter=shown_as,
        range=(0, _room_for_numbers([value for values in series.values() for value in values])),
    )
    chart.x_labels = list(reversed(names))  # pygal begins at the bottom
    for name, values in series.items():
        chart.add(name, list(reversed(values)))
    return _drawn(chart, caption)


def shares(caption: str, parts: Mapping[str, float], *, shown_as: Format) -> Picture:
    """One lying bar, cut into its parts."""
    chart = pygal.HorizontalStackedBar(
        **_settings(len(parts), height=120),
        show_x_labels=False,
        show_y_guides=False,
        value_formatter=shown_as,
    )
    chart.x_labels = [""]
    for name, value in parts.items():
        chart.add(f"{name} {shown_as(value)}", [value])
    return _drawn(chart, caption)


def columns(
    caption: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], *, shown_as: Format
) -> Picture:
    """Standing bars, those of one label on top of each other."""
    chart = pygal.StackedBar(
        **_settings(len(series)),
        x_labels_major_every=math.ceil(len(labels) / MOST_LABELS),
        show_minor_x_labels=False,
        value_formatter=shown_as,
    )
    chart.x_labels = list(labels)
    for name, values in series.items():
        chart.add(name, list(values))
    return _drawn(chart, caption)


def clock(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`: for axes."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:g} h"


def _settings(num_series: int, *, height: int = HEIGHT) -> dict[str, Any]:
    sizes = dict.fromkeys(
        ("label_font_size", "major_label_font_size", "value_font_size", "legend_font_size"), FONT_SIZE
    )
    return {
        "width": WIDTH,
        "height": height,
        "style": Style(colors=("#000",) * MOST_COLORS, **sizes),
        "js": (),
        "disable_xml_declaration": True,
        "margin": 6,
        "spacing": 8,
        "max_scale": 5,
        "truncate_legend": -1,
        "truncate_label": -1,
        "show_legend": num_series > 1,
        "legend_at_bottom": True,
        "legend_at_bottom_columns": min(num_series, 2),
        "legend_box_size": 10,
    }


def _drawn(chart: Any, caption: str) -> Picture:
    chart.add_xml_filter(lambda root: _plain(root, caption))
    return Picture(caption, Markup(chart.render(is_unicode=True)))  # pygal has escaped what it was given


def _plain(root: Any, caption: str) -> Any:
    """Without scripts, styles, comments and what only scripts would show; numbers as titles, which browsers show."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag in _LEFT_OUT or _is_own(child):
                parent.remove(child)
            elif child.tag == "desc":
                if child.get("class") == "value":
                    child.tag = "title"
                    child.attrib.clear()
                else:
                    parent.remove(child)
            else:
                child.attrib.pop("id", None)
    del root.attrib["id"]
    root.attrib |= {"role": "img", "aria-label": caption, "class": "chart"}
    root.remove(root.find("title"))
    return root


def _is_own(node: Any) -> bool:
    return bool(_OWN_CLASSES & set(node.get("class", "").split()))


def _ticks(end: float) -> list[float]:
    """Round numbers of seconds from nothing to the end."""
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
    step = next((step for step in steps if end / step <= MOST_LABELS - 1), math.ceil(end / MOST_LABELS))
    return [float(tick) for tick in range(0, math.floor(end) + 1, step)]


def _room_for_numbers(values: Sequence[float | None]) -> float:
    """The end of the axis: a third behind the longest bar for its number."""
    return max((value or 0.0 for value in values), default=0.0) * 1.35 or 1.0
