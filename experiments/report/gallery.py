"""The images of the page, as data: what all methods say of each, and apart from it what is large."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from experiments.store.images import CellImages, images_of, maps_of, view_of
from experiments.store.reading import CONTROL, EXPLAINED, Result
from experiments.store.records import Record
from experiments.tables.columns import Block
from experiments.tables.text import HOLE
from suny.later import Later
from suny.plots import WEAK, common_scale, heat
from suny.threads import one_thread

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")


# The sides of photographs and of maps, pixels, are such that a page stays below some 60 MB.
_SIDES = (224, 160)
_MAP_SIDES = (112, 56)
_MANY = 2000  # pages with more maps take the smaller sides

# Curves of p while the most salient pixels are removed, or while they alone are kept; the first one that there is counts.
_REMOVED = ("necessity", "deletion")
_KEPT = ("sufficiency", "insertion")

# The beginnings of flags with symbols, in words.
_FLAGS = {
    "E_N(F_N)": "removing all features hardly lowers p, so necessity says little",
    "E_S(empty)": "p is high with nothing kept, so sufficiency says little",
    "p_c(I) is 0": "the explained class has probability 0",
}

Json = dict[str, Any]


def gallery(block: Block, limit: int, root: str | None) -> tuple[Json, list[Json]]:
    """One block's images.

    Args:
        block: cells.
        limit: the number of images shown.
        root: where the images are now, if they have moved.

    Returns: numbers of all methods, and for each image what is large.
    """
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
    stored = sides = False
    for at, name in enumerate(tqdm(names, desc=f"images of {block.title}", unit="img")):
        made = [_method(cells[row], name, map_side, grids) for row in rows]
        values = [_values(block, row, name) for row in rows]
        compared = [(m, v) for row, m, v in zip(rows, made, values, strict=True) if cells[row][0].family != CONTROL]
        entries.append(_entry(at, fullest.records[name], cells, name, images) | {
            "values": values,
            "spreads": _spreads([v for _, v in compared]),
            "disagreement": _disagreement([m["order"] for m, _ in compared if "order" in m]),
        })  # fmt: skip
        stored = stored or any("rank" in m for m in made)
        sides = sides or any("sides" in m for m in made)
        shown = {"maps": [{k: v for k, v in m.items() if k != "order"} for m in made]}
        content.append(_photo(images, name, side) | shown)
    notes = [
        f"The first {len(names)} of {len(fullest.records)} images." if len(names) < len(fullest.records) else "",
        f"No photographs: {images.why.rstrip('.')}." if images.why else "",
        "" if stored else "Numbers only, for no maps were stored: compute with maps=true to see them.",
        "" if grids else "No curves were recorded: compute with curves=true for p while pixels are removed and kept.",
        "Disagreement leaves the controls out.",
    ]
    titles = dict.fromkeys(title for entry in entries for values in entry["values"] for title in values or ())
    mean = [round(255 * m) for m in view_of(fullest).mean]
    return {
        "title": block.title,
        "note": " ".join(n for n in notes if n),
        "methods": rows,
        "measures": list(titles),
        "first": next((c.title for c in block.columns if c.measure.name == "overall"), None),
        "side": side,
        "fill": mean,
        "grids": grids,
        "stored": stored,
        "sides": sides,
        "compared": any(e["disagreement"] is not None for e in entries),
        "images": entries,
    }, content


def _photo(images: CellImages, name: str, side: int) -> Json:
    """The photograph and the object's boxes, in shares of its side."""
    seen = images.seen(name)
    if seen is None:
        return {"photo": None, "boxes": []}
    visible, boxes = seen
    shares = [[round(v / visible.width, 4) for v in (b.x0, b.y0, b.x1, b.y1)] for b in boxes]
    return {"photo": _data_uri(visible.resize((side, side), Image.Resampling.LANCZOS), "JPEG"), "boxes": shares}


def _entry(at: int, record: Record, cells: Mapping[str, Sequence[Result]], name: str, images: CellImages) -> Json:
    """The texts of an image, and the keys by which the page finds it."""
    target, label = images.class_name(record["target"]), images.class_name(record.get("label"))
    records = {row: [c.records[name] for c in own if name in c.records] for row, own in cells.items()}
    everything = [r for own in records.values() for r in own]
    failures = []
    if record["status"] in EXPLAINED and record.get("label") is not None and record["predicted"] != record["label"]:
        failures.append("wrong class")
    failures += sorted({r["status"].replace("_", " ") for r in everything} - {"ok"})
    boxes_elsewhere = any(r.get("boxes") for c in next(iter(cells.values())) for r in c.records.values())
    if any(r.get("boxes") == 0 for r in everything) and boxes_elsewhere:
        failures.append("no box in view")
    if any(r.get("boxes_lost") for r in everything):
        failures.append("box lost to the crop")
    warnings: dict[str, list[str]] = {}
    for row, own in records.items():
        for flag in dict.fromkeys(f for r in own for f in (r.get("diagnostics") or {}).get("flags") or []):
            warnings.setdefault(flag_text(flag), []).append(row)
    if warnings:
        failures.append("a method warns")
    title = f"{name}: {target}" + (f", p {record['prob']:.3f}" if record["prob"] is not None else "")
    notes = [f"{text}: {', '.join(rows)}" for text, rows in warnings.items()]
    return {
        "number": at, "id": name, "title": title, "facts": f"label: {label}; explained: {target}", "p": record["prob"],
        "classes": sorted({target, label} - {HOLE}), "failures": failures or ["none"], "warnings": notes,
    }  # fmt: skip


def flag_text(flag: str) -> str:
    """A method's flag in words for readers who do not know its symbols."""
    for start, words in _FLAGS.items():
        if flag.startswith(start):
            return words
    return flag


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


def _method(cells: Sequence[Result], name: str, map_side: int, grids: list[list[float]]) -> Json:
    """Map and curves of one method for one image, as far as any of its cells has them."""
    shown: Json = {}
    maps = next((m for c in cells if (m := maps_of(c, name)) is not None), None)
    if maps is not None:
        rank = _rank(maps["saliency"], map_side)
        shown["rank"] = _data_uri(Image.fromarray(rank), "PNG")
        shown["order"] = rank[:: max(1, map_side // 28), :: max(1, map_side // 28)].ravel()
        if {"necessity", "sufficiency"} <= set(maps):
            n, s = common_scale(maps["necessity"], maps["sufficiency"])
            shown["sides"] = _data_uri(_two_channels(n, s, map_side), "PNG")
            shown["weak"] = [name for name, side in (("necessity", n), ("sufficiency", s)) if side.max() < WEAK]
        else:
            shown["levels"] = _levels(maps["saliency"])
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


def _levels(saliency: NDArray[Any]) -> str:
    """The strength at which each of the 256 ranks begins, as the heat map draws it (:func:`suny.plots.heat`): 256 bytes."""
    _, strength = heat(saliency)
    falling = -np.sort(-strength, axis=None)
    levels = falling[np.arange(256) * falling.size // 256]
    return base64.b64encode((255 * levels).round().astype(np.uint8).tobytes()).decode()


def _two_channels(necessity: NDArray[Any], sufficiency: NDArray[Any], side: int) -> Image.Image:
    """Both sides in one picture: necessity is red, sufficiency green."""
    maps = (Image.fromarray(m.astype(np.float32)) for m in (necessity, sufficiency))
    small = (np.asarray(m.resize((side, side), Image.Resampling.BILINEAR)) for m in maps)
    red, green = ((255 * np.clip(m, 0, 1)).round().astype(np.uint8) for m in small)
    return Image.fromarray(np.stack((red, green, np.zeros_like(red)), -1))


def _data_uri(image: Image.Image, kind: str) -> str:
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
