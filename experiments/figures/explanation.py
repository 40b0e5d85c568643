"""Draws explanations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.store.records import replacing
from suny.bivariate import bivariate, legend
from suny.explanation import Explanation

# Names of files and classes stand in titles, and a dollar in them is no formula.
plt.rcParams["text.parse_math"] = False

_CAPTIONED = ("E_N(F_N)", "E_S(F_S)", "E_S(empty)")


def save_picture(path: Path, visible: Image.Image, explanation: Explanation, caption: str) -> None:
    """Draws the first explanation of a batch: input, maps and overlay side by side.

    With a necessity and a sufficiency map both are shown on one scale (they share a unit), then the two-dimensional map
    with its colour square as legend. A method with one map shows that map.

    Args:
        path: a file whose suffix matplotlib knows (.png, .pdf, .svg).
        visible: the network's view of the image.
        explanation: maps (B, H, W); the first is drawn.
        caption: the title.
    """
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    numbers: dict[str, Any] = explanation.diagnostics[0] if explanation.diagnostics else {}
    panels: list[tuple[str, NDArray[np.float64]]] = [("input", photo)]
    two_sided = explanation.necessity is not None and explanation.sufficiency is not None
    if explanation.necessity is not None and explanation.sufficiency is not None:
        n, s = common_scale(*(m[0].double().cpu().numpy() for m in (explanation.necessity, explanation.sufficiency)))
        colour, strength = bivariate(n, s), np.maximum(n, s)
        panels += [("necessity", bivariate(n, 0)), ("sufficiency", bivariate(0, s)), ("both", colour)]
    else:
        colour, strength = heat(explanation.saliency[0].double().cpu().numpy())
        panels += [("saliency", colour)]
    panels += [("overlay", over(photo, colour, strength))]

    widths = [1.0] * len(panels) + ([0.4] if two_sided else [])
    figure, axes = plt.subplots(1, len(widths), figsize=(2.5 * sum(widths), 3.2), width_ratios=widths, layout="constrained")
    for axis, (title, content) in zip(axes, panels, strict=False):
        axis.imshow(content)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
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


def drawable(text: str) -> str:
    """A text of the data set as a font can show it: names of files need not be valid text."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def common_scale(necessity: NDArray[Any], sufficiency: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides from 0 to 1 on one scale, for they share a unit: a weak side looks weak."""
    n, s = (np.nan_to_num(m.astype(np.float64)) for m in (necessity, sufficiency))
    top = max(float(n.max()), float(s.max())) or 1.0
    return n / top, s / top


def heat(saliency: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours (H, W, 3) of a map (H, W), and the map from 0 to 1; the top half percent is all 1, or a map of single pixels
    would look empty."""
    saliency = np.nan_to_num(saliency.astype(np.float64))
    low, high = saliency.min(), np.quantile(saliency, 0.995)
    strength = np.clip((saliency - low) / (float(high - low) or 1.0), 0, 1)
    return plt.get_cmap("inferno")(strength)[..., :3], strength


def over(photo: NDArray[np.float64], colour: NDArray[np.float64], strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """The photograph under a map, which covers it the more the stronger it is."""
    alpha = 0.25 + 0.6 * strength[..., None]
    return np.clip((1 - alpha) * photo + alpha * colour, 0, 1)


def draw_legend(axis: Any) -> None:
    """The colour square: what a colour of the two-dimensional map says."""
    axis.imshow(legend(), extent=(0, 1, 0, 1))
    axis.set_xticks([0, 1], ["0", "1"], fontsize=7)
    axis.set_yticks([0, 1], ["0", "1"], fontsize=7)
    axis.set_xlabel("sufficiency", fontsize=8, labelpad=0)
    axis.set_ylabel("necessity", fontsize=8, labelpad=0)
    axis.set_title("legend", fontsize=8)
