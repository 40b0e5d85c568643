"""How maps are drawn: colours of one map, of two sides in one unit, and over the photograph.

Nothing here keeps a figure open or chooses a backend: a program that imports this keeps its own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from suny.bivariate import Colours, bivariate, legend
from suny.later import Later

if TYPE_CHECKING:
    import matplotlib
    from matplotlib.figure import Figure
else:
    matplotlib = Later("matplotlib")

Floats = NDArray[np.float64]
# a normal value lies so many standard deviations from its mean at most, with a probability of 95%
Z95 = 1.96
# edges x0, y0, x1, y1 in pixels
Edges = tuple[float, float, float, float]

# Of a method with one map: no hue of the two sides' (cyan, orange) is its main one.
HEAT = "magma"

# How much of the photograph a map covers at most, and from which strength on.
OPACITY, FULL = 0.75, 0.5
# The strength that is outlined, and how dark the outer line makes the photograph.
OUTLINED, CASING = 0.5, 0.3
# A side whose largest value is below this share of the other's is said to be near 0.
WEAK = 0.1
# Rec. 709
LUMA = np.array([0.2126, 0.7152, 0.0722])


def common_scale(necessity: NDArray[Any], sufficiency: NDArray[Any]) -> tuple[Floats, Floats]:
    """Both sides from 0 to 1 on one scale, for they share a unit: a weak side looks weak."""
    n, s = (np.nan_to_num(m.astype(np.float64)) for m in (necessity, sufficiency))
    top = max(float(n.max()), float(s.max())) or 1.0
    return n / top, s / top


def heat(saliency: NDArray[Any]) -> tuple[Floats, Floats]:
    """Colours (H, W, 3) of a map (H, W), and the map from 0 to 1; the top half percent is all 1, or a map of single pixels
    would look empty."""
    saliency = np.nan_to_num(saliency.astype(np.float64))
    low, high = saliency.min(), np.quantile(saliency, 0.995)
    strength = np.clip((saliency - low) / (float(high - low) or 1.0), 0, 1)
    return matplotlib.colormaps[HEAT](strength)[..., :3], strength


def over(photo: Floats, colour: Floats, strength: Floats) -> Floats:
    """The photograph in grey under a map: where the map is 0 it stays as it is, and all colour that is seen is the map's.

    Args:
        photo: (H, W, 3) in [0, 1].
        colour: of the map, (H, W, 3).
        strength: of the map, (H, W) in [0, 1]; it covers up to OPACITY, which it reaches at FULL.
    """
    grey = (photo @ LUMA)[..., None]
    alpha = OPACITY * np.clip(strength / FULL, 0, 1)[..., None]
    return np.clip((1 - alpha) * grey + alpha * colour, 0, 1)


def two_sided(
    photo: Floats, necessity: NDArray[Any] | float, sufficiency: NDArray[Any] | float, colours: Colours = "even"
) -> Floats:
    """Both sides over the photograph, each with the outline of where it is at least half of the scale.

    Args:
        photo: (H, W, 3) in [0, 1].
        necessity, sufficiency: (H, W) from 0 to 1 on one scale (:func:`common_scale`); a side may be left out as 0.
        colours: of the two-dimensional map.
    """
    n, s = (np.broadcast_to(np.asarray(v, dtype=np.float64), photo.shape[:2]) for v in (necessity, sufficiency))
    picture = over(photo, bivariate(n, s, colours), np.maximum(n, s))
    width = max(1, round(photo.shape[0] / 112))
    for side, colour in ((n, bivariate(1, 0, colours)), (s, bivariate(0, 1, colours))):
        inside = side >= OUTLINED
        # dark outside and coloured inside: the line is seen on black and on white
        picture[_grown(inside, width) & ~inside] *= CASING
        picture[inside & _grown(~inside, width)] = colour
    return picture


def _grown(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """A mask with all pixels that are at most so many steps away."""
    for _ in range(width):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def overlay(photo: Floats, maps: Mapping[str, NDArray[Any] | None], colours: Colours = "even") -> Floats:
    """One explanation over its photograph: both sides where there are two, else the one map as heat.

    Args:
        photo: (H, W, 3) in [0, 1].
        maps: ``saliency``, and of two-sided methods ``necessity`` and ``sufficiency``, (H, W).
        colours: of the two-dimensional map.
    """
    n, s, saliency = maps.get("necessity"), maps.get("sufficiency"), maps["saliency"]
    if n is not None and s is not None:
        return two_sided(photo, *common_scale(n, s), colours)
    assert saliency is not None
    return over(photo, *heat(saliency))


def named_side(name: str, scaled: NDArray[Any]) -> str:
    """The title of a side, which says where it is weak: on the common scale it would be seen as nothing."""
    return f"{name} near 0" if float(np.max(scaled)) < WEAK else name


def draw_legend(axis: Any, colours: Colours = "even") -> None:
    """The colour square: what a colour of the two-dimensional map says."""
    axis.imshow(legend(colours=colours), extent=(0, 1, 0, 1))
    axis.set_xticks([0, 1], ["0", "1"], fontsize=7)
    axis.set_yticks([0, 1], ["0", "1"], fontsize=7)
    axis.set_xlabel("sufficiency", fontsize=8, labelpad=0)
    axis.set_ylabel("necessity", fontsize=8, labelpad=0)
    axis.set_title("legend", fontsize=8)


def drawable(text: str) -> str:
    """A text of the data set as a font can show it: names of files need not be valid text."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def panels(
    photo: Floats,
    saliency: NDArray[Any],
    necessity: NDArray[Any] | None,
    sufficiency: NDArray[Any] | None,
    colours: Colours = "even",
) -> list[tuple[str, Floats]]:
    """Title and colours (H, W, 3) of each picture of one explanation: the input, the maps, the overlay.

    Args:
        photo: (H, W, 3) in [0, 1].
        saliency: the map (H, W), drawn of methods with one map.
        necessity, sufficiency: the two sides; None where there are none. Each is drawn over the photograph by itself, then
            both without it.
        colours: of the two-dimensional map.
    """
    if necessity is not None and sufficiency is not None:
        n, s = common_scale(necessity, sufficiency)
        maps = [
            (named_side("necessity", n), two_sided(photo, n, 0.0, colours)),
            (named_side("sufficiency", s), two_sided(photo, 0.0, s, colours)),
            ("both", bivariate(n, s, colours)),
        ]
    else:
        maps = [("saliency", heat(saliency)[0])]
    whole = {"saliency": saliency, "necessity": necessity, "sufficiency": sufficiency}
    return [("input", photo), *maps, ("overlay", overlay(photo, whole, colours))]


def certain(maps: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Where the sides of one explanation are above 0 by their 95% bands, bool (H, W) by the title of the panel.

    Args:
        maps: ``necessity``, ``sufficiency`` and their errors ``n_error``, ``s_error``, (H, W); a side without is left out.
    """
    sides = (("necessity", "n_error"), ("sufficiency", "s_error"))
    return {side: maps[side] > Z95 * maps[error] for side, error in sides if side in maps and error in maps}


def surround(axis: Any, inside: NDArray[np.bool_]) -> None:
    """A line around a part of a picture, thin and of two colours, so that it is seen on any map."""
    if inside.any() and not inside.all():
        axis.contour(inside, levels=[0.5], colors="black", linewidths=1.6)
        axis.contour(inside, levels=[0.5], colors="white", linewidths=0.7)


def stretched(image: NDArray[Any]) -> Floats:
    """A normalised image (3, H, W) as a picture (H, W, 3): its own range becomes 0 to 1, for its normalisation is not known."""
    values = np.nan_to_num(np.moveaxis(image.astype(np.float64), 0, -1))
    low, high = values.min(), values.max()
    return (values - low) / (float(high - low) or 1.0)


def outlined(picture: Floats, inside: NDArray[np.bool_]) -> Floats:
    """A picture (H, W, 3), 0..1, with the outline of an object, bool (H, W): its outermost pixels white, those around it
    black."""
    around = np.pad(inside, 1, mode="edge")
    neighbours = np.stack([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
    result = picture.copy()
    result[inside & ~neighbours.all(0)] = 1.0
    result[~inside & neighbours.any(0)] = 0.0
    return result


def draw(
    rows: Sequence[Sequence[tuple[str, Floats]]],
    captions: Sequence[str],
    boxes: Sequence[Sequence[Edges]],
    parts: Sequence[Mapping[str, NDArray[np.bool_]]],
    colours: Colours = "even",
) -> Figure:
    """A figure with a line of pictures for each image.

    Args:
        rows: for each image its :func:`panels`.
        captions: a text for each image, above its line.
        boxes: for each image edges in its pixels, drawn on the input and on the overlay.
        parts: for each image, by the title of a panel, what a line surrounds there.
        colours: of the two-dimensional map, for its legend.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    class Picture(Figure):
        """A figure that notebooks show by itself; pyplot, which would keep it open and show it again, does not know it."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=110)
            return content.getvalue()

    legends = [0.4] if any(title == "both" for title, _ in rows[0]) else []
    widths = [*([1.0] * len(rows[0])), *legends]
    figure = Picture(figsize=(2.5 * sum(widths), 3.0 * len(rows)), layout="constrained")
    lines = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for line, row, caption, around, inside in zip(lines, rows, captions, boxes, parts, strict=True):
        axes = line.subplots(1, len(widths), width_ratios=widths)
        for axis, (title, picture) in zip(axes, row, strict=False):
            axis.imshow(picture)
            axis.set_title(title, fontsize=10)
            axis.axis("off")
            if title in inside:
                surround(axis, inside[title])
            for x0, y0, x1, y1 in around if title in ("input", "overlay") else ():
                # the pixel in column i covers [i, i + 1), and is drawn around i
                axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=1.5))
                axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="black", linewidth=0.5))
        if legends:
            draw_legend(axes[-1], colours)
        line.suptitle(drawable(caption), fontsize=10, parse_math=False)
    return figure
