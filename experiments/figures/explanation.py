"""Draws explanations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from experiments.store.records import replacing
from suny.explanation import ERRORS, SIDES, Explanation
from suny.plots import certain, draw_legend, drawable, heat, over, panels, surround

# Names of files and classes stand in titles, and a dollar in them is no formula.
plt.rcParams["text.parse_math"] = False

_CAPTIONED = ("E_N(F_N)", "E_S(F_S)", "E_S(empty)")


def save_picture(path: Path, visible: Image.Image, explanation: Explanation, caption: str) -> None:
    """Draws the first explanation of a batch: input, maps and overlay side by side.

    With a necessity and a sufficiency map both are shown on one scale (they share a unit), then the two-dimensional map
    with its colour square as legend. A method with one map shows that map. A line surrounds what is above 0 with 95% certainty,
    where the method knows the errors of its maps.

    Args:
        path: a file whose suffix matplotlib knows (.png, .pdf, .svg).
        visible: the network's view of the image.
        explanation: maps (B, H, W); the first is drawn.
        caption: the title.
    """
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    numbers: dict[str, Any] = explanation.diagnostics[0] if explanation.diagnostics else {}
    found = {name: getattr(explanation, name) for name in (*SIDES, *ERRORS)}
    maps: dict[str, Any] = {name: m[0].double().cpu().numpy() for name, m in found.items() if m is not None}
    shown = panels(photo, maps["saliency"], maps.get("necessity"), maps.get("sufficiency"))
    parts = certain(maps)
    two_sided = explanation.necessity is not None and explanation.sufficiency is not None

    widths = [1.0] * len(shown) + ([0.4] if two_sided else [])
    figure, axes = plt.subplots(1, len(widths), figsize=(2.5 * sum(widths), 3.2), width_ratios=widths, layout="constrained")
    for axis, (title, content) in zip(axes, shown, strict=False):
        axis.imshow(content)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
        if title in parts:
            surround(axis, parts[title])
    if two_sided:
        draw_legend(axes[-1])
    effects = "   ".join(f"{key} = {numbers[key]:.2f}" for key in _CAPTIONED if key in numbers)
    flags = "; ".join(numbers.get("flags", []))
    lines = [caption, *([effects] if effects else []), *([f"flags: {flags}"] if flags else [])]
    figure.suptitle(drawable("\n".join(lines)), fontsize=10)
    save(figure, path)


def save_grid(path: Path, visible: Image.Image, explanations: Mapping[str, Explanation], caption: str) -> None:
    """Draws the first map of each of several explanations over the input, each on its own scale.

    Args:
        path, visible, caption: as in :func:`save_picture`.
        explanations: by name of the method.
    """
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    columns = min(8, len(explanations) + 1)
    rows = -(-(len(explanations) + 1) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.9 * rows + 0.3), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(photo)
    axes.flat[0].set_title("input", fontsize=9)
    for axis, (name, explanation) in zip(axes.flat[1:], explanations.items(), strict=False):
        axis.imshow(over(photo, *heat(explanation.saliency[0].double().cpu().numpy())))
        axis.set_title(name, fontsize=9)
    figure.suptitle(drawable(caption), fontsize=10)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Writes a figure at once: where the program is killed there is no half of a picture."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png", dpi=110)
    plt.close(figure)
