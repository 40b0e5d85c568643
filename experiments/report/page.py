"""The page of several cells as one HTML file: findings, tables, comparisons and a gallery of images."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.report.findings import findings
from experiments.report.gallery import Json, gallery
from experiments.report.tables import cells, tables
from experiments.store.reading import Result
from experiments.tables.columns import blocks
from experiments.tables.comparisons import compare_columns
from experiments.tables.specs import specs_of
from suny import plots
from suny.bivariate import Colours, bivariate

_ASSETS = Path(__file__).with_name("assets")

# The colour square has so many colours a side.
_SQUARE = 33


def page(
    results: Sequence[Result], limit: int = 1000, root: str | None = None, colours: Colours = "even", command: str = ""
) -> str:
    """The page of several cells.

    Args:
        results: cells.
        limit: the number of images shown per block.
        root: where the images are now, if they have moved.
        colours: of the two sides.
        command: that makes the page, which it shows.
    """
    galleries: list[Json] = []
    heavy: list[Markup] = []
    for block in blocks(results, _metrics(results)):
        one, content = gallery(block, limit, root)
        heavy += [_script(f"image-{len(galleries)}-{at}", image) for at, image in enumerate(content)]
        galleries.append(one)
    compared = compare_columns(results)
    images = sum(len(g["images"]) for g in galleries)
    data = {
        "tables": tables(results, compared),
        "cells": [cells(results)],
        "galleries": galleries,
        "bytes": round(sum(map(len, heavy)) / max(1, images)),
        "colours": _colours(colours),
    }
    environment = Environment(loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    own = {name: Markup((_ASSETS / name).read_text(encoding="utf-8")) for name in ("report.css", "tables.js", "gallery.js")}
    return environment.get_template("report.html").render(
        css=own["report.css"],
        scripts=[own["tables.js"], own["gallery.js"]],
        about=f"{len(results)} cells, {sum(len(r.records) for r in results)} explained images",
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        command=command,
        findings=findings(results, compared),
        data=_script("data", data),
        images=heavy,
        markup=Markup,
    )


def page_command(arguments: Sequence[str]) -> str:
    """The command that makes a page."""
    return shlex.join(["python", "-m", "experiments.report", *arguments])


def embedded(data: Any) -> str:
    """JSON that can stand in a script element, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(name: str, content: Json) -> Markup:
    return Markup(f'<script type="application/json" id="{name}">{embedded(content)}</script>')


def _colours(colours: Colours) -> Json:
    """The colours of all maps, and how they lie over a photograph: :mod:`suny.plots` in numbers."""
    axis = np.linspace(0, 1, _SQUARE)
    square = bivariate(axis[:, None], axis[None, :], colours)
    heat = np.array(matplotlib.colormaps[plots.HEAT](np.linspace(0, 1, 256)))[:, :3]
    return {
        "heat": (heat * 255).round().astype(int).ravel().tolist(),
        "square": (square * 255).round().astype(int).ravel().tolist(),  # row by row, necessity first
        "side": _SQUARE,
        "opacity": plots.OPACITY,
        "full": plots.FULL,
        "outlined": plots.OUTLINED,
        "casing": plots.CASING,
        "luma": list(plots.LUMA),
    }


def _metrics(results: Sequence[Result]) -> list[str]:
    """The metrics of all cells, those of the tables first and in their order."""
    known = dict.fromkeys(name for r in results for name, measure in r.measures.items() if measure.metric)
    ordered = dict.fromkeys(name for spec in specs_of(results) for name in spec.measures)
    return [*(name for name in ordered if name in known), *(name for name in known if name not in ordered)]
