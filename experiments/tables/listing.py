"""Lists: cells in a few lines each, so that their folders can be told apart by eye, all metrics and all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.command.configuration import make_metric
from experiments.command.folders import choices
from experiments.command.program import composed
from experiments.store.card import name_of_column
from experiments.store.reading import Result, differing
from experiments.tables.text import arrow, table
from suny.choices import methods

# Digests that say nothing where settings say why they differ, and the group of these settings.
_EXPLAINED = {"images": "dataset.", "weights": "model."}


def describe(results: Sequence[Result], cells: Sequence[Sequence[Result]], root: Path) -> str:
    """One cell in a few lines.

    Args:
        results: the cell (:func:`experiments.store.reading.read_cell`).
        cells: all cells that are listed.
        root: folders are named from there.
    """
    first = results[0]
    neighbours = [c[0] for c in cells if _names(c[0]) == _names(first)]
    keys = differing([flatten(n.identity) for n in neighbours])
    digests = [g for g, settings in _EXPLAINED.items() if any(k.startswith(settings) for k in keys)]
    shown = [k for k in keys if k.partition(".")[0] not in digests]
    own = flatten(first.identity)
    state = "complete" if first.complete else "unfinished"
    lines = [f"{first.folder.relative_to(root).as_posix()}   {len(first.records)} of {first.count} images, {state}"]
    if shown:
        lines.append(f"    differs in {', '.join(f'{k}={shorten(own.get(k))}' for k in shown)}")
    columns = []
    for key, column in first.card["columns"].items():
        name = name_of_column(key, column)
        usual = first.card["columns"].get(name, column)["settings"]
        notes = [f"{k}={v}" for k, v in column["settings"].items() if usual.get(k) != v]
        count = sum(key in r for r in first.records.values())
        notes += [f"{count} images"] if count < len(first.records) else []
        columns.append(f"{name} ({', '.join(notes)})" if notes else name)
    lines.append(f"    {', '.join(columns) or 'no column'}")
    return "\n".join(lines)


def list_metrics() -> str:
    """Every metric that has a conf file, as a table."""
    rows: dict[str, list[Any]] = {}
    for file in choices("metrics"):
        resolved: Any = OmegaConf.to_container(composed([f"metrics=[{file}]"]), resolve=True)
        for name, node in resolved["metrics"].items():
            m = make_metric(name, node)
            if name not in rows or file in (name, rows[name][1]):
                needs = ", ".join(sorted(m.needs)) or "-"
                rows[name] = [name, file, arrow(m), f"[{m.low:g}, {m.high:g}]", m.unit, needs, m.version, m.reference]
    head = ["metric", "conf/metrics", "in tables", "range", "unit", "needs", "version", "reference"]
    return table(head, rows.values())


def list_methods(width: int = 80) -> str:
    """Every method that has a conf file, a line each: name, family, both sides or not, and what it is."""
    known = methods()
    name, family = (max(map(len, texts)) for texts in (known.index, known["family"]))
    lines = []
    for method, row in known.iterrows():
        line = f"{method!s:{name}}  {row['family']:{family}}  {'N+S' if row['maps'] == 'N and S' else '':3}  {row['reference']}"
        lines.append(line if len(line) <= width else f"{line[: width - 3].rstrip(' ,;:(')}...")
    return "\n".join([*lines, "", "Each in full, with its keys: conf/method. N+S: it says necessity and sufficiency."])


def _names(result: Result) -> tuple[str, str, str]:
    return result.dataset, result.model, result.method


def flatten(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def shorten(value: Any) -> str:
    """A value as text, of a SHA-256 its first eight digits."""
    text = "null" if value is None else str(value)
    return text[:8] if len(text) == 64 else text
