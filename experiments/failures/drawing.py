"""The picture of a case."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from torch import Tensor

from experiments.figures.explanation import save
from metrics.base import Part, Side
from suny.plots import drawable, two_sided


@dataclass(frozen=True)
class CaseMap:
    """One map of a case.

    Args:
        title: the side, and the class or family that is explained.
        side: ``necessity`` or ``sufficiency``.
        values: (H, W), >= 0.
        p: the probability of the class, or of the family.
        hit: the names of the visible parts in its most salient pixels.
        diagnostics: those of the explanation.
    """

    title: str
    side: Side
    values: Tensor
    p: float
    hit: list[str]
    diagnostics: dict[str, Any]


def save_case(path: Path, visible: Image.Image, maps: Mapping[str, CaseMap], parts: Sequence[Part], caption: str) -> None:
    """Draws a case side by side, each map on its own scale; filled dots are the parts that it hits.

    Args:
        path: the file.
        visible: what the network sees of the image.
        maps: by key of :data:`experiments.failures.cases.MAPS`.
        parts: the visible parts, in pixels of the view.
        caption: the title.
    """
    photo = np.asarray(visible, dtype=np.float64) / 255.0
    figure, axes = plt.subplots(1, 1 + len(maps), figsize=(3.1 * (1 + len(maps)), 3.9), layout="constrained")
    axes[0].imshow(photo)
    axes[0].set_title("input", fontsize=9)
    _dots(axes[0], parts, [])
    for axis, case_map in zip(axes[1:], maps.values(), strict=True):
        values = case_map.values.double().cpu().numpy()
        strength = values / (values.max() or 1.0)
        axis.imshow(two_sided(photo, *((strength, 0.0) if case_map.side == "necessity" else (0.0, strength))))
        hit = f"parts hit: {', '.join(case_map.hit) or 'none'}" if parts else ""
        other = "E_S" if case_map.side == "necessity" else "E_N"
        flags = [flag for flag in case_map.diagnostics.get("flags", []) if not flag.startswith(other)]
        texts = [f"{case_map.title}, p = {case_map.p:.3f}", hit, *flags]
        axis.set_title(drawable("\n".join(line for text in texts for line in textwrap.wrap(text, 46))), fontsize=8)
        _dots(axis, parts, case_map.hit)
    for axis in axes:
        axis.axis("off")
    figure.suptitle(drawable(caption), fontsize=10)
    save(figure, path)


def _dots(axis: Any, parts: Sequence[Part], hit: Sequence[str]) -> None:
    for name, x, y in parts:
        axis.plot(x, y, "o", markersize=5, markeredgecolor="white", markerfacecolor="red" if name in hit else "none")
