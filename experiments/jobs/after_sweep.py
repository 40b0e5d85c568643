"""Texts after a sweep, beside its table: how often protocols disagree, the sanity check's stages, ablations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.store.reading import Result
from experiments.tables.ablations import ablation_sweeps
from experiments.tables.columns import blocks
from experiments.tables.console import ablation_table
from experiments.tables.specs import ablated_measures
from experiments.tables.text import interval, table
from metrics.base import Metric


def compared_numbers(cell: Result) -> list[str]:
    """The keys of a cell's records that the texts after a sweep need beside its means."""
    return [
        *ablated_measures([cell]),
        "label",
        *(name for name, m in cell.measures.items() if getattr(m.metric, "protocol", None)),
    ]


def after_sweep(cells: Sequence[Result], folder: Path) -> list[str]:
    """The texts; draws the pictures that they name.

    Args:
        cells: with the numbers that :func:`compared_numbers` names.
        folder: where the pictures go.
    """
    from experiments.figures import drawing  # not above: no run needs it before its end

    texts = []
    for dataset, model in dict.fromkeys((c.dataset, c.model) for c in cells):
        group = [c for c in cells if (c.dataset, c.model) == (dataset, model)]
        metrics = {name: m.metric for c in group for name, m in c.measures.items() if m.metric}
        if any(getattr(m, "protocol", None) for m in metrics.values()) and len(group) > 1:
            texts.append(f"{dataset} / {model}: do the protocols agree?\n\n{count_flips(group, metrics)}")
        if any("stages" in cell.entry(name) for cell in group for name, m in cell.measures.items() if m.metric):
            texts.append(f"{dataset} / {model}: sanity check\n\n{sanity_table(group)}")
    with drawing.styled():
        for block in blocks(cells, ["sanity"]):
            texts.append(_draw(drawing.sanity(block), folder / drawing.file_name("sanity", block)))
        for sweep in ablation_sweeps(cells):
            texts.append(
                f"{ablation_table(sweep, folder)}\n\n{_draw(drawing.ablation(sweep), folder / drawing.sweep_name(sweep))}"
            )
    return texts


def _draw(figure: Any, path: Path) -> str:
    """Writes a figure; returns the line that says where."""
    from experiments.figures import drawing

    drawing.save(figure, path)
    return f"drawn: {path}.pdf and .png"


def count_flips(cells: Sequence[Result], metrics: Mapping[str, Metric]) -> str:
    """Counts how often two settings of a metric rank two methods the other way round, by their means and on single images.

    Ties count as no flip.
    """
    rows = []
    for kind in dict.fromkeys(type(m) for m in metrics.values() if getattr(m, "protocol", None)):
        names = [n for n, m in metrics.items() if type(m) is kind]
        values = _values(cells, names)
        for one, other in itertools.combinations(names, 2):
            turned: list[bool] = []
            single: list[bool] = []
            for a, b in itertools.combinations(range(len(cells)), 2):
                first, second = (values[name][a] - values[name][b] for name in (one, other))
                known = ~(np.isnan(first) | np.isnan(second))
                single += (first[known] * second[known] < 0).tolist()
                turned.append(bool(first[known].mean() * second[known].mean() < 0) if known.any() else False)
            rows.append(
                [
                    metrics[one].label,
                    metrics[other].label,
                    f"{sum(turned)} of {len(turned)}",
                    f"{100 * np.mean(single):.1f} % of {len(single)}" if single else "-",
                ]
            )
    head = ["setting", "other setting", "pairs of methods whose order flips", "flips on single images"]
    return table(head, rows)


def _values(cells: Sequence[Result], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The values of each metric, (cells, images), NaN where one is missing."""
    images = dict.fromkeys(image for cell in cells for image in cell.records)
    places = {image: at for at, image in enumerate(images)}
    values = {name: np.full((len(cells), len(places)), np.nan) for name in names}
    for at, cell in enumerate(cells):
        for record in cell.records.values():
            for name in names:
                if record.get(name) is not None:
                    values[name][at, places[record["image"]]] = record[name]
    return values


def sanity_table(cells: Sequence[Result]) -> str:
    """The similarity to the original map at each stage of the sanity check."""
    rows = []
    for cell in cells:
        for entry in (cell.entry(name) for name, measure in cell.measures.items() if measure.metric):
            for stage, values in entry.get("stages", {}).items():
                rows.append([cell.method, stage, *(interval(v) for v in values.values()), values["spearman"]["n"]])
    return table(["method", "random from", "Spearman", "SSIM", "n"], rows)
