"""The section of a run's page about its compressed model: what each task lost, and the precision of each layer."""

from __future__ import annotations

import re

from docmill.ops.compression.report import CompressionReport, LayerPrecision
from docmill.pipelines import report_charts as charts
from docmill.pipelines.compression_text import figure_lines, task_rows
from docmill.pipelines.report_charts import Picture
from docmill.pipelines.report_sections import Section
from docmill.pipelines.report_tables import Table

SOURCE_FORMAT = "as the source"
MOST_BARS = 16
_LAYER = re.compile(r"\.(\d+)\.")


def compressed_model(report: CompressionReport) -> Section:
    """How the model that answered was made."""
    header = ["task", "quality", "source", "compressed", "loss", "at most", "same answers"]
    return Section(
        "The compressed model",
        note=" ".join(f"{line[:10].strip().capitalize()}: {line[11:]}." for line in figure_lines(report)),
        pictures=_pictures(report),
        table=Table(header, [[name, *values] for name, values in task_rows(report)]),
    )


def _pictures(report: CompressionReport) -> list[Picture]:
    if not report.layers:
        return []
    pictures = [_precisions(report.layers), _sensitivities(report.layers)]
    trial = report.trial
    if len(report.curve) > 1 and trial is not None:
        points = sorted(report.curve, key=lambda point: point.bits_per_weight)
        losses = [point.divergence for point in points]
        chosen = sum(layer.divergence.get(layer.format, 0.0) for layer in report.layers if layer.format)
        pictures.append(
            charts.curve(
                "Loss by size: divergence (nats a token) at bits a weight",
                [point.bits_per_weight for point in points],
                losses,
                marked=(trial.bits_per_weight, chosen) if trial.bits_per_weight is not None else None,
                across_as=lambda bits: f"{bits:g} bits",
                up_as=lambda loss: f"{loss:.2g}",
            )
        )
    return pictures


def _precisions(layers: list[LayerPrecision]) -> Picture:
    """A row for each kind of group, a column for each layer of the model."""
    kinds = list(dict.fromkeys(_kind(layer.group) for layer in layers))
    numbers = [_number(layer.group) for layer in layers]
    found = {
        (kinds.index(_kind(layer.group)), number): layer.format or SOURCE_FORMAT
        for layer, number in zip(layers, numbers, strict=True)
    }
    return charts.cells("Precision by layer", kinds, max(numbers) + 1, found)


def _sensitivities(layers: list[LayerPrecision]) -> Picture:
    """What suffers most when it alone is quantised."""
    formats = sorted({name for layer in layers for name in layer.divergence})
    worst = sorted(layers, key=lambda layer: -max(layer.divergence.values(), default=0.0))[:MOST_BARS]
    series = {name: [layer.divergence.get(name) for layer in worst] for name in formats}
    names = [f"{_number(layer.group)} {_kind(layer.group)}" for layer in worst]
    return charts.bars(
        "Most sensitive: divergence when quantised alone", names, series, shown_as=lambda loss: f"{loss:.1e}"
    )


def _number(group: str) -> int:
    found = _LAYER.search(group)
    return int(found[1]) if found else 0


def _kind(group: str) -> str:
    return group.rpartition(".")[2]
