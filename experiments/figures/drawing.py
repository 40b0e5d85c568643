"""The figures of a paper, drawn from records and stored maps.

Methods differ by marker and dashes as well as by colour (Okabe and Ito's, told apart by colour-blind readers), so that a
figure also reads in grey.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from tqdm import tqdm

from experiments.command import configuration as config
from experiments.store.images import images_of, maps_of
from experiments.store.reading import Result
from experiments.store.records import writing
from experiments.tables.ablations import AblationSweep, ablation_sweeps
from experiments.tables.columns import Block, blocks
from experiments.tables.comparisons import Comparison, compare_columns
from experiments.tables.text import FEWEST, arrow, limits, p_value
from metrics.sanity import CONTROLS
from metrics.statistics import Entry, mean_band
from suny.bivariate import Colours
from suny.classifiers.engine import Engine, pick_device
from suny.errors import UserError
from suny.explanation import explained
from suny.images.decode import decode
from suny.plots import draw_legend, drawable, heat, over, overlay
from suny.seeds import image_seed

# Okabe and Ito, "Color universal design", 2008; without yellow, which is lost on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

# Fonts of type 42 are embedded as they are, and an SVG keeps its text, so that both can be searched and edited.
# Without a fixed salt the ids in an SVG would differ each time.
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "suny",
    "axes.grid": True,
    "grid.alpha": 0.3,
}

# What matplotlib must leave out for a file without a date.
_UNDATED: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}

# Points of a plane, beyond which they are drawn as pixels.
_MANY = 1000

_CURVES = {
    "deletion": ("pixels removed", "p"),
    "insertion": ("pixels restored", "p"),
    "necessity": ("most salient pixels removed", "necessity N(q)"),
    "sufficiency": ("most salient pixels kept", "sufficiency S(q)"),
}


def styles(rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A line's look by method: no two share marker and dashes, whatever their colours."""
    looks = {}
    for at, row in enumerate(rows):
        dash = DASHES[(at + at // len(MARKERS)) % len(DASHES)]
        looks[row] = {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[at % len(MARKERS)], "linestyle": dash}
    return looks


def figures(
    results: Sequence[Result], root: str | None = None, rows: int = 6, strips: int = 0, colours: Colours = "even"
) -> dict[str, Callable[[], Any]]:
    """The figures that can be drawn from the results, by name; each is a function that returns it."""
    drawings: dict[str, Callable[[], Any]] = {}

    def add(name: str, draw: Callable[..., Any], *arguments: Any) -> None:
        drawings[name] = lambda: draw(*arguments)

    names = _curve_names(results)
    for block in blocks(results, names):
        if any(_curves(c, name) is not None for c in block.cells for name in names):
            add(file_name("curves", block), curves, block)
    for block in blocks(results, ["necessity", "sufficiency"]):
        if {c.measure.name for c in block.columns} >= {"necessity", "sufficiency"}:
            add(file_name("ns_plane", block), plane, block)
    for block in blocks(results, list(dict.fromkeys(m for r in results for m in r.measures))):
        cells = _with_maps(block)
        if cells:
            add(file_name("methods", block), grid, cells, root, rows, colours)
            add("colour_square", colour_square, colours)
    for block in blocks(results, ["sanity"]):
        add(file_name("sanity", block), sanity, block)
        if strips:
            add(file_name("sanity_strips", block), sanity_strips, block, root, strips)
    for compared in compare_columns(results):
        if compared.ranks:
            add(file_name(f"critical_difference-{_file(compared.column.title)}", compared.block), critical_difference, compared)
    for sweep in ablation_sweeps(results):
        add(sweep_name(sweep), ablation, sweep)
    return drawings


def styled() -> Any:
    """The style of all figures, as a context."""
    return plt.rc_context(_STYLE)


def save(figure: Any, path: Path, kinds: Sequence[str] = ("pdf", "png")) -> None:
    """Writes PATH.pdf and PATH.png, or files of other kinds (svg); the same records give the same file."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            dpi = 150 if kind == "png" else "figure"
            figure.savefig(path.with_name(f"{path.name}.{kind}"), dpi=dpi, metadata=_UNDATED.get(kind))
    plt.close(figure)


def curves(block: Block) -> Any:
    """Mean curves of the methods with pointwise 95% bootstrap bands over images."""
    known: dict[str, dict[str, tuple[list[float], NDArray[np.float64]]]] = {}
    for column in block.columns:  # several protocols of one metric are not mixed: the first is the one that most cells have
        rows = {row: v for row, cell in column.cells.items() if (v := _curves(cell, column.measure.name)) is not None}
        if rows:
            known.setdefault(column.measure.name, rows)
    names = [name for name in _curve_names(block.cells) if name in known]
    looks = styles(block.rows)
    figure, axes = _axes(1, len(names), 2.6, 2.9)
    for axis, name in zip(axes.flat, names, strict=True):
        for row in (r for r in block.rows if r in known[name]):
            fraction, values = known[name][row]
            mean, low, high = mean_band(values)
            look = looks[row]
            axis.plot(fraction, mean, **look, markevery=max(1, len(fraction) // 8), markersize=3.5, linewidth=1.2, label=row)
            if len(values) >= FEWEST:
                drawn = [r for r in block.rows if r in known[name]]
                place = drawn.index(row) / (len(drawn) - 1) - 0.5 if len(drawn) > 1 else 0.0
                _band(axis, fraction, low, high, look, place)
        count = max(len(values) for _, values in known[name].values())
        pixels, value = _CURVES.get(name, ("pixels", name.replace("_", " ")))
        axis.set(title=f"{name}, {count} images", xlabel=f"share of the {pixels}", ylabel=value)
    _legend(figure, axes.flat)
    figure.suptitle(block.title, fontsize=8)
    return figure


def plane(block: Block) -> Any:
    """The N-S plane: a panel per method, a point per image; the cross is the mean, grey are the other methods' images."""
    by_name = {c.measure.name: c.cells for c in block.columns}
    points = {}
    for row in (r for r in block.rows if r in by_name["necessity"] and r in by_name["sufficiency"]):
        n, s = by_name["necessity"][row].records, by_name["sufficiency"][row].records
        common = [i for i in n if n[i].get("necessity") is not None and s.get(i, {}).get("sufficiency") is not None]
        if common:
            points[row] = np.array([[s[i]["sufficiency"], n[i]["necessity"]] for i in common])
    columns = min(4, max(1, len(points)))
    figure, axes = _axes(-(-max(1, len(points)) // columns), columns, 1.9, 2.0, sharex=True, sharey=True)
    everything = np.concatenate(list(points.values())) if points else np.zeros((0, 2))
    looks = styles(block.rows)
    for axis, (row, own) in zip(axes.flat, points.items(), strict=False):
        # thousands of points are pixels, also in a file of vectors
        many = len(everything) > _MANY
        axis.scatter(*everything.T, s=3, color="0.8", linewidths=0, rasterized=many)
        look = {"color": looks[row]["color"], "marker": looks[row]["marker"]}
        axis.scatter(*own.T, s=12, linewidths=0, alpha=0.8, rasterized=many, **look)
        axis.plot(*own.mean(0), "k+", markersize=11, markeredgewidth=1.6)
        axis.set_title(f"{row}: S {own[:, 0].mean():.2f}, N {own[:, 1].mean():.2f}, n {len(own)}")
    for axis in axes.flat[len(points) :]:
        axis.set_axis_off()
    figure.supxlabel("sufficiency S", fontsize=8)
    figure.supylabel("necessity N", fontsize=8)
    figure.suptitle(f"{block.title}: a point per image, + the mean", fontsize=8)
    return figure


def grid(cells: Sequence[Result], root: str | None, rows: int, colours: Colours = "even") -> Any:
    """The first images of a cell with every method's map: of two-sided methods both sides in colours, of others a heat map."""
    images = images_of(cells[0], root)
    stored = [(i, {c.row: m for c in cells if (m := maps_of(c, i)) is not None}) for i in list(cells[0].records)[:rows]]
    stored = [(i, maps) for i, maps in stored if maps]
    figure, axes = _axes(max(1, len(stored)), len(cells) + 1, 1.15, 1.3)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], ["", *(c.row for c in cells)], strict=True):
        axis.set_title(title, fontsize=7)
    for line, (image, maps) in zip(axes, stored, strict=False):
        visible = images.visible(image)
        side = next(iter(maps.values()))["saliency"].shape
        photo = np.full((*side, 3), 0.5) if visible is None else np.asarray(visible, dtype=np.float64) / 255.0
        line[0].imshow(photo)
        name = images.class_name(cells[0].records[image]["target"]).split(",")[0]
        line[0].set_title(f"{drawable(name)}, p {cells[0].records[image]['prob']:.2f}", fontsize=6, loc="left")
        for axis, cell in zip(line[1:], cells, strict=True):
            if cell.row in maps:
                axis.imshow(overlay(photo, maps[cell.row], colours))
    more = f" (no photographs: {images.why})" if images.why else ""
    shown = f"{len(stored)} of {max(len(c.records) for c in cells)} images"
    figure.suptitle(f"{cells[0].dataset} / {cells[0].model}: {shown}{more}", fontsize=8)
    return figure


def colour_square(colours: Colours = "even") -> Any:
    """The legend of the two-dimensional map."""
    figure, axes = _axes(1, 1, 1.8, 1.8)
    draw_legend(axes[0, 0], colours)
    axes[0, 0].grid(False)
    return figure


def sanity(block: Block) -> Any:
    """Similarity to the original map while the weights are randomised from the output down, with 95% intervals; the last
    point, apart, is the same network with another seed: the method's own noise floor."""
    looks = styles(block.rows)
    figure, axes = _axes(1, 2, 3.2, 3.0)
    for axis, what in zip(axes.flat, ("spearman", "ssim"), strict=True):
        ticks: list[str] = []
        for row in (r for r in block.rows if r in block.columns[0].cells):
            entry = block.columns[0].entry(row)
            stages = (entry or {}).get("stages", {})
            order = [CONTROLS[0], *(s for s in stages if s not in CONTROLS), CONTROLS[1]]
            ticks = order if len(order) > len(ticks) else ticks
            known = [(order.index(s), e[what]) for s, e in stages.items() if e[what]["mean"] is not None]
            _error_bars(axis, sorted(known, key=lambda k: k[0]), looks[row], row, skip_last=True)
        axis.set_xticks(range(len(ticks)), ticks, rotation=35, ha="right", fontsize=6)
        axis.set(
            title={"spearman": "Spearman's correlation", "ssim": "SSIM"}[what], xlabel="random from this layer to the output"
        )
    _legend(figure, axes.flat)
    figure.suptitle(f"{block.title}: similarity to the original map, {_images(block.cells)}", fontsize=8)
    return figure


def sanity_strips(block: Block, root: str | None, count: int) -> Any:
    """The maps themselves while the weights are randomised: explained again, with the card's configuration and seeds."""
    cells = [block.columns[0].cells[row] for row in block.rows if row in block.columns[0].cells]
    images = [s for i in list(cells[0].records)[:count] if (s := images_of(cells[0], root).samples.get(i))]
    if not images:
        raise UserError(f"strips: the images of {cells[0].folder} are not there: {images_of(cells[0], root).why}.")
    strips: list[tuple[str, str, list[tuple[str, NDArray[Any]]]]] = []
    photos = {}
    for cell in tqdm(cells, desc="sanity strips", unit="method"):
        run = config.read(OmegaConf.create(dict(cell.configuration)))
        stages = cell.measures["sanity"].protocol
        classifier = run.model.build()
        engine = Engine.of(classifier, pick_device(run.settings.device), run.settings.precision, cell.card["batch_size"])
        for sample in images:
            decoded = decode(sample.path)
            photos[sample.image] = np.asarray(classifier.view.visible(decoded.image)) / 255.0
            x = classifier.view(decoded.image).to(engine.device)[None]
            target = torch.tensor([cell.records[sample.image]["target"]])
            seed = [image_seed(run.settings.seed, sample.image)]
            maps = [("original", explained(run.explainer, engine, x, target, seed))]
            for layer, other in engine.cascade(stages["stages"], stages["seed"]):
                maps.append((layer, explained(run.explainer, other, x, target, seed)))
            strips.append((cell.row, sample.image, [(s, e.saliency[0].float().cpu().numpy()) for s, e in maps]))
    figure, axes = _axes(len(strips), len(strips[0][2]) + 1, 1.15, 1.3)
    for axis, title in zip(axes[0], ["", *(stage for stage, _ in strips[0][2])], strict=True):
        axis.set_title(title, fontsize=6)
    for line, (row, image, maps_of_stage) in zip(axes, strips, strict=True):
        line[0].imshow(photos[image])
        line[0].set_ylabel(row, fontsize=7)
        for axis, (_, saliency) in zip(line[1:], maps_of_stage, strict=True):
            axis.imshow(over(photos[image], *heat(saliency)))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    figure.suptitle(f"{block.title}: random from this layer to the output, {len(images)} images", fontsize=8)
    return figure


def critical_difference(compared: Comparison) -> Any:
    """Average ranks on a line; methods under one bar are closer than the critical difference (Nemenyi, .05)."""
    ranks = compared.ranks or {}
    order = np.argsort(ranks["ranks"], kind="stable")
    names = [compared.ranked[i] for i in order]
    places = np.array(ranks["ranks"])[order]
    k, width = len(names), ranks["critical_difference"]
    cliques = _cliques(places, width)
    half = -(-k // 2)
    top = 0.35 + 0.18 * len(cliques)
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.16 * half + 0.12 * len(cliques)), layout="constrained")
    axis.set_axis_off()
    axis.plot([1, k], [0, 0], "k-", linewidth=1)
    for rank in range(1, k + 1):
        axis.plot([rank, rank], [0, 0.1], "k-", linewidth=1)
        axis.text(rank, 0.15, str(rank), ha="center", va="bottom", fontsize=7)
    for at, (first, last) in enumerate(cliques):
        y = -0.15 - 0.18 * at
        axis.plot([places[first] - 0.03, places[last] + 0.03], [y, y], "k-", linewidth=3, solid_capstyle="butt")
    for at, (name, place) in enumerate(zip(names, places, strict=True)):
        left = at < half
        y = -top - 0.25 * (at if left else k - 1 - at)
        end = 0.9 - 0.02 * k if left else k + 0.1 + 0.02 * k
        axis.plot([place, place, end], [0, y, y], "k-", linewidth=0.7)
        axis.text(
            end,
            y,
            f"{name} {place:.2f} " if left else f" {place:.2f} {name}",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
        )
    axis.plot([1, 1 + width], [0.75, 0.75], "k-|", linewidth=1)
    axis.text(1 + width / 2, 0.8, f"critical difference {width:.2f}", ha="center", va="bottom", fontsize=7)
    axis.set(xlim=(0.2 - 0.16 * k, k + 0.8 + 0.16 * k), ylim=(-top - 0.25 * half, 1.2))
    tested = f"{ranks['n']} images (Friedman p {p_value(ranks['p'])})"
    title = f"{compared.block.title}: average rank in {compared.column.title}, {tested}"
    figure.suptitle(textwrap.fill(title, 90), fontsize=8)
    return figure


def ablation(sweep: AblationSweep) -> Any:
    """A panel per measure: mean and 95% interval at each value of what is swept."""
    columns = min(4, len(sweep.curves))
    rows = -(-len(sweep.curves) // columns)
    figure, axes = _axes(rows, columns, 2.2, 2.1)
    labels = sweep.labels
    for axis, column in zip(axes.flat, sweep.curves.values(), strict=False):
        known = [(labels.index(label), column.entry(label)) for label in labels if label in column.cells]
        drawn = [(at, e) for at, e in known if e and e["mean"] is not None]
        _error_bars(axis, drawn, styles([sweep.method])[sweep.method], sweep.method)
        axis.set_xticks(range(len(labels)), labels, rotation=30 if max(map(len, labels)) > 4 else 0, fontsize=6)
        axis.set_title(arrow(column.measure))
    for axis in axes.flat[len(sweep.curves) :]:
        axis.set_axis_off()
    figure.supxlabel(sweep.ablation.title, fontsize=8)
    figure.suptitle(f"{sweep.title}, mean and 95% interval, {_images(sweep.cells)}", fontsize=8)
    return figure


def _error_bars(
    axis: Any, points: Sequence[tuple[int, Entry]], look: dict[str, Any], label: str, skip_last: bool = False
) -> None:
    """Means with intervals at their places, joined by a line (but not to the last point, where that is of another kind)."""
    if not points:
        return
    entries = [e for _, e in points]
    x, means = np.array([at for at, _ in points]), np.array([e["mean"] for e in entries])
    bounds = np.array([[m if v is None else v for v in limits(e)] for m, e in zip(means, entries, strict=True)]).T
    errors = np.abs(bounds - means)
    axis.errorbar(x, means, yerr=errors, color=look["color"], marker=look["marker"], markersize=4, linestyle="none", capsize=2)
    joined = slice(None, -1) if skip_last else slice(None)
    axis.plot(x[joined], means[joined], **look, markersize=4, linewidth=1.1, label=label)


def _band(axis: Any, x: Any, low: Any, high: Any, look: dict[str, Any], place: float) -> None:
    """A pale band, and at some points a line from its one end to the other, at a place of the method's own beside the point:
    where bands of several methods lie over each other, each can still be read.

    Args:
        place: from -.5 to .5, the method's among all.
    """
    axis.fill_between(x, low, high, facecolor=look["color"], alpha=0.06, linewidth=0)
    step = max(1, len(x) // 8)
    at = slice(step // 2, None, step)
    beside = np.asarray(x)[at] + 0.7 * place * step * (x[-1] - x[0]) / max(1, len(x) - 1)
    axis.vlines(beside, low[at], high[at], colors=look["color"], linewidth=1.0, linestyles="solid")
    axis.scatter(np.repeat(beside, 2), np.ravel([low[at], high[at]], "F"), s=5, color=look["color"], marker="_", linewidths=1.0)


def _images(cells: Sequence[Result]) -> str:
    counts = sorted({len(c.records) for c in cells})
    return f"{counts[0]} images" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} images"


def _cliques(places: NDArray[np.float64], width: float) -> list[tuple[int, int]]:
    """First and last of the longest runs of sorted average ranks that lie within the critical difference."""
    runs = [(first, int(np.flatnonzero(places - places[first] <= width)[-1])) for first in range(len(places))]
    runs = [(first, last) for first, last in runs if last > first]
    return [r for at, r in enumerate(runs) if not any(o[0] <= r[0] and r[1] <= o[1] for o in runs[:at])]


def _with_maps(block: Block) -> list[Result]:
    """One cell with stored maps per row, in the order of the rows."""
    cells: dict[str, Result] = {}
    for cell in block.group:
        if cell.row in block.rows and cell.row not in cells and maps_of(cell, next(iter(cell.records))) is not None:
            cells[cell.row] = cell
    return [cells[row] for row in block.rows if row in cells]


def _curve_names(cells: Sequence[Result]) -> list[str]:
    """The metrics that have curves: those that say their axes above, then the others."""
    others = (name for c in cells for name, m in c.measures.items() if getattr(m.metric, "has_curve", False))
    return list(dict.fromkeys([*_CURVES, *others]))


def _curves(cell: Result, name: str) -> tuple[list[float], NDArray[np.float64]] | None:
    """Fractions (points,) and values (images, points) of the stored curves; None without."""
    stored = [r["curves"][name] for r in cell.records.values() if name in (r.get("curves") or {})]
    return (stored[0]["fraction"], np.array([c["value"] for c in stored])) if stored else None


def _axes(rows: int, columns: int, height: float, width: float, **more: Any) -> tuple[Any, Any]:
    return plt.subplots(
        rows, columns, figsize=(columns * width, rows * height + 0.4), layout="constrained", squeeze=False, **more
    )


def _legend(figure: Any, axes: Any) -> None:
    """One legend below all panels."""
    entries = dict(itertools.chain.from_iterable(zip(*reversed(a.get_legend_handles_labels()), strict=True) for a in axes))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(6, max(1, len(entries))))


def file_name(kind: str, block: Block) -> str:
    """The name of a block's figure."""
    return f"{kind}-{_file(block.title)}"


def sweep_name(sweep: AblationSweep) -> str:
    """The name of an ablation's figure."""
    return f"ablation_{sweep.ablation.name}-{_file(sweep.title)}"


def _file(title: str) -> str:
    """A title as part of a file's name."""
    kept = "".join(c if c.isalnum() or c in "_." else "-" for c in title)
    return "-".join(part for part in kept.split("-") if part)
