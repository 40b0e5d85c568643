"""Draws explanations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from PIL import Image

from experiments.store.records import replacing
from suny.bivariate import Colours
from suny.explanation import ERRORS, SIDES, Explanation
from suny.images.masks import Mask
from suny.plots import HEAT, certain, draw_legend, drawable, outlined, overlay, panels, surround

# Names of files and classes stand in titles, and a dollar in them is no formula.
plt.rcParams["text.parse_math"] = False

_CAPTIONED = ("E_N(F_N)", "E_S(F_S)", "E_S(empty)")


def save_picture(
    path: Path,
    visible: Image.Image,
    explanation: Explanation,
    caption: str,
    inside: Mask | None = None,
    colours: Colours = "even",
) -> None:
    """Draws the first explanation of a batch: input, maps and overlay side by side.

    With a necessity and a sufficiency map both are shown on one scale (they share a unit), then the two-dimensional map
    with its colour square as legend. A method with one map shows that map. A line surrounds what is above 0 with 95% certainty,
    where the method knows the errors of its maps.

    Args:
        path: a file whose suffix matplotlib knows (.png, .pdf, .svg).
        visible: the network's view of the image.
        explanation: maps (B, H, W); the first is drawn.
        caption: the title.
        inside: the annotated object, bool (H, W), outlined on the input; None: nothing is outlined.
        colours: of the two-dimensional map.
    """
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    numbers: dict[str, Any] = explanation.diagnostics[0] if explanation.diagnostics else {}
    shown = panels(photo, **_first(explanation), colours=colours)
    found = {name: getattr(explanation, name) for name in (*SIDES, *ERRORS)}
    maps: dict[str, Any] = {name: m[0].double().cpu().numpy() for name, m in found.items() if m is not None}
    parts = certain(maps)
    two_sided = explanation.necessity is not None and explanation.sufficiency is not None

    widths = [1.0] * len(shown) + ([0.4] if two_sided else [])
    figure, axes = plt.subplots(1, len(widths), figsize=(2.5 * sum(widths), 3.2), width_ratios=widths, layout="constrained")
    for axis, (title, content) in zip(axes, shown, strict=False):
        axis.imshow(content if inside is None or title != "input" else outlined(content, inside))
        axis.set_title(title, fontsize=10)
        axis.axis("off")
        if title in parts:
            surround(axis, parts[title])
    if two_sided:
        draw_legend(axes[-1], colours)
    effects = "   ".join(f"{key} = {numbers[key]:.2f}" for key in _CAPTIONED if key in numbers)
    flags = "; ".join(numbers.get("flags", []))
    lines = [caption, *([effects] if effects else []), *([f"flags: {flags}"] if flags else [])]
    figure.suptitle(drawable("\n".join(lines)), fontsize=10)
    save(figure, path)


def save_grid(
    path: Path, visible: Image.Image, explanations: Mapping[str, Explanation], caption: str, colours: Colours = "even"
) -> None:
    """Draws the first map of each of several explanations over the input, each on its own scale: both sides of methods that
    have them, as the report does.

    Args:
        path, visible, caption, colours: as in :func:`save_picture`.
        explanations: by name of the method.
    """
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    maps = {name: _first(explanation) for name, explanation in explanations.items()}
    several = any(m["necessity"] is not None for m in maps.values())
    single = any(m["necessity"] is None for m in maps.values())
    count = 1 + len(maps) + several + single
    columns = min(8, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.9 * rows + 0.3), layout="constrained", squeeze=False)
    for axis in axes.flat[1 + len(maps) :]:
        axis.axis("off")
    pictures = {"input": photo, **{name: overlay(photo, own, colours) for name, own in maps.items()}}
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    legends = iter(axes.flat[1 + len(maps) :])
    if several:
        draw_legend(next(legends).inset_axes((0.3, 0.3, 0.5, 0.5)), colours)
    if single:
        bar = figure.colorbar(ScalarMappable(cmap=HEAT), cax=next(legends).inset_axes((0.3, 0.2, 0.08, 0.6)), ticks=[0, 1])
        bar.set_label("one map", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(drawable(caption), fontsize=10)
    save(figure, path)


def _first(explanation: Explanation) -> dict[str, Any]:
    """The maps (H, W) of the first explanation of a batch by name; None where there is none."""
    names = ("saliency", "necessity", "sufficiency")
    maps = {name: getattr(explanation, name) for name in names}
    return {name: None if m is None else m[0].double().cpu().numpy() for name, m in maps.items()}


def save(figure: Any, path: Path) -> None:
    """Writes a figure at once: where the program is killed there is no half of a picture."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=110)
    plt.close(figure)
