"""The page of several cells as one HTML file: tables, comparisons and a gallery of images."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from experiments.store.images import CellImages, images_of, maps_of, view_of
from experiments.store.reading import CONTROL, EXPLAINED, Result
from experiments.store.records import Record
from experiments.tables import comparisons, published
from experiments.tables.ablations import AblationSweep, ablation_sweeps
from experiments.tables.columns import Block, blocks
from experiments.tables.render import LEGEND, cell_text, count_text, failures_text
from experiments.tables.specs import specs_of
from experiments.tables.text import HOLE, bounds, interval, number, p_value
from suny.bivariate import bivariate
from suny.images.masks import Mask, resized
from suny.later import Later
from suny.plots import common_scale, outlined, over
from suny.threads import one_thread

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")

_ASSETS = Path(__file__).with_name("assets")

# The sides of photographs and of maps, pixels, are such that a page stays below some 60 MB.
_SIDES = (168, 112)
_MAP_SIDES = (112, 56)
_MANY = 2000  # pages with more maps take the smaller sides

# Curves of p while the most salient pixels are removed, or while they alone are kept; the first one that there is counts.
_REMOVED = ("necessity", "deletion")
_KEPT = ("sufficiency", "insertion")

Json = dict[str, Any]


def page(results: Sequence[Result], limit: int = 1000, root: str | None = None) -> str:
    """The page of several cells.

    Args:
        results: cells.
        limit: the number of images shown per block.
        root: where the images are now, if they have moved.
    """
    galleries: list[Json] = []
    heavy: list[str] = []
    for block in blocks(results, _metrics(results)):
        one = gallery(block, limit, root)
        heavy += [_script(f"image-{len(galleries)}-{at}", content) for at, content in enumerate(one.pop("content"))]
        galleries.append(one)
    data = {
        "about": f"{len(results)} cells, {sum(len(r.records) for r in results)} explained images.",
        "tables": tables(results),
        "cells": [_cells(results)],
        "galleries": galleries,
        "colours": (np.array(matplotlib.colormaps["inferno"].colors) * 255).round().astype(int).tolist(),  # type: ignore[attr-defined]
    }
    parts = {name: (_ASSETS / f"report.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    filled = parts.pop("html")
    parts |= {"data": embedded(data), "images": "\n".join(heavy)}
    # in one pass, so that no text that was put in is looked at again
    pieces = filled.split("{{")
    return pieces[0] + "".join(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))


def embedded(data: Any) -> str:
    """JSON that can stand in a script element, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(name: str, content: Json) -> str:
    return f'<script type="application/json" id="{name}">{embedded(content)}</script>'


# tables


def tables(results: Sequence[Result]) -> list[Json]:
    """Groups of tables: those of the paper and the others, ablations, statistics, the published numbers."""
    legend = LEGEND.replace("*", "")
    of_specs = [
        _group(s.title, [s.note, legend], [_block_table(b) for b in blocks(results, s.measures)]) for s in specs_of(results)
    ]
    others = [
        _group(
            "Ablations",
            ["Mean [95% interval]; †: differs significantly from the usual setting."],
            [_sweep_table(s) for s in ablation_sweeps(results)],
        ),
        _group(
            "Statistics: differences to the best baseline, image by image",
            ["p: Wilcoxon's signed ranks, two-sided; effect: rank-biserial correlation."],
            [_difference_table(c) for c in comparisons.compare_columns(results)],
        ),
        _group("Beside the published numbers", [], _published_tables(results)),
    ]
    return [group for group in (*of_specs, *others) if group["tables"]]


def _block_table(block: Block) -> Json:
    rows = []
    for row in block.rows:
        numbers = [
            {"t": cell_text(c, row, block), "v": (c.entry(row) or {}).get("mean"), "k": c.marks.get(row, "")}
            for c in block.columns
        ]
        rows.append([_cell(row), _cell(count_text(block, row)), *numbers, _cell(failures_text(block, row))])
    return _table(block.title, ["method", "n", *(c.title for c in block.columns), "failures"], rows, block.notes)


def _sweep_table(sweep: AblationSweep) -> Json:
    marked = {name: sweep.significant(name) for name in sweep.curves}
    rows = []
    for label in sweep.labels:
        cells = [_cell(label + " (usual)" * (label == sweep.usual))]
        for name, column in sweep.curves.items():
            entry = column.entry(label)
            text = HOLE if entry is None else interval(entry) + " †" * (label in marked[name])
            cells.append({"t": text, "v": entry["mean"] if entry else None})
        rows.append(cells)
    head = [sweep.ablation.title, *(c.title for c in sweep.curves.values())]
    return _table(f"{sweep.ablation.title}: {sweep.title}", head, rows, sweep.notes)


def _difference_table(c: comparisons.Comparison) -> Json:
    rows = [
        [
            _cell(row), _cell(f"{e['mean']:+.3f}", e["mean"]), _cell(bounds(e)), _cell(str(e["n"]), e["n"]),
            *(_cell(p_value(e[key]), e[key]) for key in ("p", "p_holm")), _cell(f"{e['effect']:+.2f}", e["effect"]),
        ]
        for row, e in c.differences.items()
    ]  # fmt: skip
    title = f"{c.block.title}, {c.column.title}: difference to {c.reference}"
    return _table(title, ["method", "difference", "95% interval", "n", "p", "p (Holm)", "effect"], rows)


def _published_tables(results: Sequence[Result]) -> list[Json]:
    rows = [
        [
            *(_cell(v) for v in (x.dataset, x.model, x.method, x.metric)), _cell(number(x.value, 4), x.value),
            _cell(interval(x.ours, 4), x.ours["mean"]), _cell(str(x.ours["n"]), x.ours["n"]),
            _cell(number(x.difference, 4), x.difference), _cell({True: "yes", False: "no", None: HOLE}[x.within]),
        ]
        for x in published.joined(results)
        if x.ours
    ]  # fmt: skip
    head = ["data", "network", "method", "metric", "published", "ours", "n", "difference", "in our interval"]
    return [_table("where they compare", head, rows)] if rows else []


def _cells(results: Sequence[Result]) -> Json:
    head = ["data", "network", "method", "hash", "images", "explained class", "layer", "seed", "torch", "revision", "machine"]
    rows = [
        [
            _cell(str(v))
            for v in (
                r.dataset, r.model, r.row, r.digest, f"{len(r.records)} of {r.count}",
                r.protocol["explained_class"], r.protocol["target_layer"] or HOLE, r.protocol["seed"],
                r.card.get("versions", {}).get("torch", HOLE), str(r.card.get("git", {}).get("revision") or HOLE)[:8],
                r.card.get("machine", {}).get("device", HOLE),
            )
        ]
        for r in results
    ]  # fmt: skip
    return _group("What was computed", [], [_table("cells", head, rows)])


def _group(title: str, texts: Sequence[str], tables: Sequence[Json]) -> Json:
    return {"title": title, "texts": [t for t in texts if t], "tables": list(tables)}


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Json]], texts: Sequence[str] = ()) -> Json:
    return {"title": title, "head": list(head), "rows": [list(r) for r in rows], "texts": list(texts)}


def _cell(text: str, value: float | None = None) -> Json:
    return {"t": text} if value is None else {"t": text, "v": value}


# images


def gallery(block: Block, limit: int, root: str | None) -> Json:
    """One block's images: numbers of all methods, and apart from them (``content``) what is large."""
    rows = [row for row in block.rows if any(row in c.cells for c in block.columns)]
    cells = {row: [c for c in block.group if c.row == row] for row in rows}
    fullest = max(block.cells, key=lambda c: len(c.records))
    images = images_of(fullest, root)
    names = list(fullest.records)[:limit]
    few = len(names) * len(rows) <= _MANY
    side, map_side = (s[0 if few else 1] for s in (_SIDES, _MAP_SIDES))
    grids: list[list[float]] = []
    entries: list[Json] = []
    content: list[Json] = []
    stored = False
    for at, name in enumerate(tqdm(names, desc=f"images of {block.title}", unit="img")):
        made = [_method(cells[row], name, side, map_side, images, grids) for row in rows]
        values = [_values(block, row, name) for row in rows]
        compared = [(m, v) for row, m, v in zip(rows, made, values, strict=True) if cells[row][0].family != CONTROL]
        entries.append(_entry(at, fullest.records[name], [cells[row] for row in rows], name, images) | {
            "values": values,
            "spreads": _spreads([v for _, v in compared]),
            "disagreement": _disagreement([m["order"] for m, _ in compared if "order" in m]),
        })  # fmt: skip
        visible = images.visible(name)
        stored = stored or any("rank" in m for m in made)
        photo = None if visible is None else _data_uri(_outlined(visible, images.object(name), side), "JPEG")
        content.append({"photo": photo, "maps": [{k: v for k, v in m.items() if k != "order"} for m in made]})
    notes = [
        f"The first {len(names)} of {len(fullest.records)} images." if len(names) < len(fullest.records) else "",
        f"No photographs: {images.why}." if images.why else "",
        "" if stored else "No maps were stored: compute with maps=true.",
        "" if grids else "No curves were recorded: compute with curves=true.",
        "Maps show pixels by their rank, as the metrics use them: the brighter, the more salient; of two-sided methods "
        "necessity is blue, sufficiency orange, both white. A line around the object shows its "
        "annotation: the mask, or the boxes. Disagreement leaves the controls out.",
    ]
    titles = dict.fromkeys(title for entry in entries for values in entry["values"] for title in values or ())
    mean = [round(255 * m) for m in view_of(fullest).mean]
    return {
        "title": block.title,
        "note": " ".join(n for n in notes if n),
        "methods": rows,
        "measures": {title: {"title": title} for title in titles},
        "first": next((c.title for c in block.columns if c.measure.name == "overall"), None),
        "side": side,
        "fill": mean,
        "grids": grids,
        "compared": any(e["disagreement"] is not None for e in entries),
        "images": entries,
        "content": content,
    }


def _outlined(visible: Image.Image, inside: Mask | None, side: int) -> Image.Image:
    """A view at another size, with the outline of its object."""
    photo = visible.resize((side, side), Image.Resampling.LANCZOS)
    if inside is None:
        return photo
    drawn = outlined(np.asarray(photo) / 255.0, resized(inside, (side, side)))
    return Image.fromarray((drawn * 255).round().astype(np.uint8))


def _entry(at: int, record: Record, cells: Sequence[Sequence[Result]], name: str, images: CellImages) -> Json:
    """The texts of an image, and the keys by which the page finds it."""
    target, label = images.class_name(record["target"]), images.class_name(record.get("label"))
    records = [c.records[name] for of_row in cells for c in of_row if name in c.records]
    failures = []
    if record["status"] in EXPLAINED and record.get("label") is not None and record["predicted"] != record["label"]:
        failures.append("wrong class")
    failures += sorted({r["status"].replace("_", " ") for r in records} - {"ok"})
    if any(r.get("boxes") == 0 for r in records) and any(r.get("boxes") for c in cells[0] for r in c.records.values()):
        failures.append("no box in view")
    if any(r.get("boxes_lost") for r in records):
        failures.append("box lost to the crop")
    if any((r.get("diagnostics") or {}).get("flags") for r in records):
        failures.append("flagged explanation")
    title = f"{name}: {target}" + (f", p {record['prob']:.3f}" if record["prob"] is not None else "")
    flags = {f for r in records for f in (r.get("diagnostics") or {}).get("flags") or []}
    facts = [f"label: {label}", f"explained: {target}", *(f"flag: {f}" for f in sorted(flags))]
    classes = sorted({target, label} - {HOLE})
    return {
        "number": at, "id": name, "title": title, "facts": "; ".join(facts), "p": record["prob"], "classes": classes,
        "failures": failures or ["none"],
    }  # fmt: skip


def _values(block: Block, row: str, name: str) -> Json | None:
    """The numbers of one method for one image, by column; None where the method has no record of it."""
    values, known = {}, False
    for column in block.columns:
        record = column.cells[row].records.get(name) if row in column.cells else None
        known = known or record is not None
        value = record.get(column.measure.name) if record else None
        if isinstance(value, int | float):
            values[column.title] = round(float(value), 5)
    return values if known else None


def _spreads(values: Sequence[Json | None]) -> dict[str, float]:
    """The largest number of each column minus its smallest one, over the methods."""
    known = [v for v in values if v]
    titles = dict.fromkeys(t for v in known for t in v)
    several = {t: [v[t] for v in known if t in v] for t in titles}
    return {t: round(max(v) - min(v), 5) for t, v in several.items() if len(v) > 1}


@one_thread
def _disagreement(orders: Sequence[NDArray[Any]]) -> float | None:
    """1 - mean Spearman correlation of pairs of maps."""
    if len(orders) < 2:
        return None
    ranks = np.array([stats.rankdata(o) for o in orders])
    ranks = ranks[ranks.std(1) > 0]
    if len(ranks) < 2:
        return None
    pairs = np.corrcoef(ranks)[np.triu_indices(len(ranks), 1)]
    return round(float(1 - pairs.mean()), 4)


def _method(cells: Sequence[Result], name: str, side: int, map_side: int, images: CellImages, grids: list[list[float]]) -> Json:
    """Map and curves of one method for one image, as far as any of its cells has them."""
    shown: Json = {}
    maps = next((m for c in cells if (m := maps_of(c, name)) is not None), None)
    if maps is not None:
        rank = _rank(maps["saliency"], map_side)
        shown["rank"] = _data_uri(Image.fromarray(rank), "PNG")
        shown["order"] = rank[:: max(1, map_side // 28), :: max(1, map_side // 28)].ravel()
        if {"necessity", "sufficiency"} <= set(maps):
            visible = images.visible(name)
            photo = np.full((*maps["saliency"].shape, 3), 0.5) if visible is None else np.asarray(visible) / 255.0
            n, s = common_scale(maps["necessity"], maps["sufficiency"])
            both = (over(photo, bivariate(n, s), np.maximum(n, s)) * 255).astype(np.uint8)
            shown["both"] = _data_uri(Image.fromarray(both).resize((side, side), Image.Resampling.LANCZOS), "JPEG")
    for what, kinds in (("removed", _REMOVED), ("kept", _KEPT)):
        for kind, cell in itertools.product(kinds, cells):
            record = cell.records.get(name) or {}
            curve = (record.get("curves") or {}).get(kind)
            if curve is None:
                continue
            grid = [round(f, 4) for f in curve["fraction"]]
            if grid not in grids:
                grids.append(grid)
            shown[what] = {
                "g": grids.index(grid),
                "p": [round(p, 4) for p in _probabilities(kind, curve["value"], record["prob"])],
            }
            if what == "kept":
                shown["substrate"] = cell.measures[kind].protocol.get("fill") if kind in cell.measures else None
            break
    return shown


def _probabilities(kind: str, values: Sequence[float], p: float) -> Iterator[float]:
    """p of the class along a curve; N(q) and S(q) are relative to p(I)."""
    if kind == "necessity":
        return (p * (1 - v) for v in values)
    return (p * v for v in values) if kind == "sufficiency" else iter(values)


def _rank(saliency: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Each shown pixel's rank among all pixels, 0 (most salient) to 255: so many 256ths are more salient than it.

    Pixels are picked, not averaged: what is shown as removed is what the metrics remove.
    """
    order = np.argsort(-saliency, axis=None, kind="stable")
    rank = np.empty(saliency.size, np.int64)
    rank[order] = np.arange(saliency.size)
    levels = (256 * rank // saliency.size).astype(np.uint8).reshape(saliency.shape)
    rows, columns = ((np.arange(side) + 0.5) * size / side for size in saliency.shape)
    return levels[np.ix_(rows.astype(int), columns.astype(int))]


def _data_uri(image: Image.Image, kind: str) -> str:
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _metrics(results: Sequence[Result]) -> list[str]:
    """The metrics of all cells, those of the tables first and in their order."""
    known = dict.fromkeys(name for r in results for name, measure in r.measures.items() if measure.metric)
    ordered = dict.fromkeys(name for spec in specs_of(results) for name in spec.measures)
    return [*(name for name in ordered if name in known), *(name for name in known if name not in ordered)]
