"""Reads finished and partial cells back: what tables, figures and the report are made from.

A cell is read from its card and its records alone; everything else follows from these two. Numbers may stand in one column
where their protocols are the same (:attr:`Result.protocol` and the measure's own); :func:`differing` says which key is not.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from experiments.command import data_folders
from experiments.command.configuration import NAME, make_target
from experiments.command.folders import conf_file
from experiments.command.program import composed
from experiments.command.progress import tell
from experiments.store.card import metric_of, name_of_column, settings_of
from experiments.store.records import CELL, CellFolder, Record, digest_of, read_records
from metrics.base import Metric
from metrics.statistics import Entry, comparable, mean_interval, paired
from suny.errors import UserError
from suny.explanation import Explainer, Family

OWN: Family = "own"
BASELINE: Family = "baseline"
CONTROL: Family = "control"

# The states of a record whose image was explained.
EXPLAINED = ("ok", "degenerate")

# No metric gives a larger number: a record that has one is damaged.
LARGEST = 1e300

# The keys of a method that say nothing about what it does.
_NO_SETTINGS = ("registered", "name", "seed")

# What a column's entry on the card has beside the settings that numbers depend on.
_ABOUT_COLUMN = ("unit", "reference", "class", "metric", "fingerprint")

# The costs of explaining an image, by their keys in records: label, digits, and whether the machine matters.
_COSTS = {
    "explain_forwards": ("forwards/image", 0, False),
    "explain_tail_forwards": ("passes of the tail/image", 0, False),
    "explain_backwards": ("backwards/image", 0, False),
    "explain_seconds": ("s/image", 3, True),
}


_PASSES = ("forwards", "seconds", "explain_forwards", "explain_tail_forwards", "explain_seconds")


@dataclass(frozen=True)
class Measure:
    """A metric or a cost, as one column of a table shows it.

    Args:
        name: the key in records.
        label: column title without arrow.
        higher_is_better: None where neither direction is better.
        protocol: how it was measured; cells that differ in it do not share a column.
        metric: None for a cost.
        digits: after the point.
    """

    name: str
    label: str
    higher_is_better: bool | None
    protocol: Mapping[str, Any]
    metric: Metric | None = None
    digits: int = 3


@dataclass(frozen=True, eq=False)
class Result:
    """One cell as it lies on the disk, with one setting of each metric.

    A cell in which a metric was measured with several settings is several results (:func:`read_cell`).

    Args:
        folder: of the cell.
        card: as written.
        records: complete ones, by image.
        measures: by name, in the card's order.
    """

    folder: Path
    card: Mapping[str, Any]
    records: Mapping[str, Record]
    measures: Mapping[str, Measure]
    _entries: dict[str, Entry] = field(default_factory=dict, repr=False)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The keys of the command that began the cell."""
        return self.card["configuration"]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the cell (:mod:`experiments.store.card`)."""
        return self.card["identity"]

    @property
    def dataset(self) -> str:
        return self.identity["dataset"]["name"]

    @property
    def model(self) -> str:
        return self.identity["model"]["name"]

    @property
    def method(self) -> str:
        return self.identity["method"]["name"]

    @property
    def digest(self) -> str:
        return self.card["hash"][:8]

    @property
    def count(self) -> int:
        """Images of the cell, recorded or not."""
        return self.identity["images"]["count"]

    @functools.cached_property
    def failures(self) -> dict[str, int]:
        boxes = any("boxes" in m.metric.needs for m in self.measures.values() if m.metric)
        return failures_of(list(self.records.values()), boxes)

    @functools.cached_property
    def passes(self) -> dict[str, float]:
        """Passes and seconds per image, of the whole record and of its explanation: means over the images that were read."""
        read = [r for r in self.records.values() if r["status"] in EXPLAINED]
        return {key: float(np.mean([r[key] for r in read])) if read else 0.0 for key in _PASSES}

    @property
    def complete(self) -> bool:
        return len(self.records) == self.count

    @property
    def family(self) -> Family:
        return self.card["family"]

    @property
    def stored(self) -> bool:
        """Whether the maps were files, so that explaining cost nothing."""
        return "maps" in self.identity

    @property
    def usual(self) -> Mapping[str, Any]:
        """The method's settings in its conf file; the card has those of a file outside this project."""
        return self.card.get("usual") or preset(self.method)

    def title(self, group: str) -> str | None:
        """The name of the data set, model or method in a paper, where its class says one."""
        return self.card.get("titles", {}).get(group)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The method's keys that differ from its conf file; empty for stored maps and for a method without one."""
        usual = self.usual
        if self.stored or not usual:
            return {}
        own = self.identity["method"]
        return {k: v for k, v in own.items() if k not in _NO_SETTINGS and usual.get(k) != v}

    def setting(self, key: str) -> Any:
        """A key of the method, as it was or as the conf file has it."""
        return self.identity["method"].get(key, self.usual.get(key))

    @property
    def row(self) -> str:
        """The method's row in tables: its name, and the keys that differ from its conf file."""
        return f"{self.method} ({key_value_text(self.settings)})" if self.settings else self.method

    @functools.cached_property
    def protocol(self) -> dict[str, Any]:
        """The protocol of the whole cell, by key: cells that differ in it are not compared."""
        identity, images = self.identity, self.identity["images"]
        return {
            "explained_class": identity["explained_class"],
            "target_layer": identity["target_layer"],
            # cards of the usual network do not say them
            **{key: identity[key] for key in ("reshape", "output") if key in identity},
            **{f"preprocessing.{k}": v for k, v in identity["preprocessing"].items()},
            "images": f"{images['count']} ({images['sha256'][:8]})",
            "weights": identity["weights"]["sha256"][:8],
            "seed": identity["seed"],
            "precision": identity["precision"],
            "compile": identity["compile"],
        }

    def entry(self, name: str) -> Entry:
        """Mean, interval, n of a measure: what the cell's summary has."""
        if name not in self._entries:
            self._entries[name] = entry_of(self.measures[name].metric, name, list(self.records.values()))
        return self._entries[name]


def read_result(folder: Path, columns: Mapping[str, str] | None = None) -> Result:
    """One cell with one setting of each metric.

    Args:
        folder: of the cell.
        columns: for each metric the key of its column; default: the first setting of every metric.

    Raises:
        UserError: the card is damaged, or of another version of the project.
    """
    card, records = _card_and_records(folder)
    return _result(folder, card, records, _settings(card)[0] if columns is None else columns)


def read_cell(folder: Path) -> list[Result]:
    """One cell: a result, and further ones where it has several settings of a metric.

    Raises:
        UserError: the card is damaged, or of another version of the project.
    """
    card, records = _card_and_records(folder)
    first, *others = (_result(folder, card, records, keys) for keys in _settings(card))
    # the costs of explaining are shown once
    return [first, *(replace(r, measures={n: m for n, m in r.measures.items() if m.metric}) for r in others)]


def _card_and_records(folder: Path) -> tuple[dict[str, Any], dict[str, Record]]:
    """The card, and the records in the order of the images, as the cell has them: an interval depends on it."""
    card = CellFolder(folder).read_card()
    if card is None or not {"configuration", "identity", "family", "columns"} <= set(card):
        raise UserError(f"{folder}/card.yaml is damaged: move the folder {folder} away.")
    names = [card["identity"].get(group, {}).get("name") for group in ("dataset", "model", "method")]
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise UserError(f"{folder}/card.yaml is damaged (names: {names!a}): move the folder {folder} away.")
    return card, {r["image"]: r for r in sorted(read_records(folder, CELL), key=lambda r: r["image"])}


def _settings(card: Mapping[str, Any]) -> list[dict[str, str]]:
    """The keys of a cell's columns by metric: a mapping, and further ones where a metric has several settings."""
    settings: list[dict[str, str]] = [{}]
    for key, column in card["columns"].items():
        name = name_of_column(key, column)
        free = next((s for s in settings if name not in s), None)
        if free is None:
            settings.append(free := {})
        free[name] = key
    return settings


def _result(folder: Path, card: Mapping[str, Any], records: Mapping[str, Record], keys: Mapping[str, str]) -> Result:
    measures = _measures(folder, card, keys) | ({} if "maps" in card["identity"] else _costs(card))
    return Result(folder, card, {i: _renamed(r, keys) for i, r in records.items()}, measures)


def _measures(folder: Path, card: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Measure]:
    measures = {}
    for name, key in keys.items():
        column = card["columns"][key]
        try:
            metric = metric_of(column, f"columns.{key}")
        except UserError as error:
            tell(f"note: {folder}: {key} is left out: {error}")
            continue
        protocol = {**column["settings"], **{k: v for k, v in column.items() if k not in (*_ABOUT_COLUMN, "settings")}}
        measures[name] = Measure(name, metric.label, metric.higher_is_better, protocol, metric)
    return measures


def _costs(card: Mapping[str, Any]) -> dict[str, Measure]:
    machine = {"batch_size": card.get("batch_size"), **card.get("machine", {})}
    return {
        name: Measure(name, label, False, machine if timed else {}, None, digits)
        for name, (label, digits, timed) in _COSTS.items()
    }


def _renamed(record: Record, keys: Mapping[str, str]) -> Record:
    """A record in which the values of some columns, and their curves, stand under their metrics' names."""
    if all(name == key for name, key in keys.items()):
        return record
    values = {name: record[key] for name, key in keys.items() if key in record}
    curves = {name: record["curves"][key] for name, key in keys.items() if key in record.get("curves", {})}
    others = {k: v for k, v in record.items() if k not in keys and k != "curves"}
    return {**others, **values, **({"curves": curves} if curves else {})}


class Numbers(Mapping[str, Record]):
    """Some keys of a cell's records, those whose values are numbers, as arrays: what comparing cells image by image needs, in a
    small part of the memory that the records take.

    Args:
        records: of a cell, by image.
        names: the keys.
    """

    def __init__(self, records: Mapping[str, Record], names: Iterable[str]) -> None:
        # several cells have the same images, whose ids are then in memory once
        self._places = {sys.intern(image): at for at, image in enumerate(records)}
        self._columns: dict[str, NDArray[np.float64]] = {}
        for name in dict.fromkeys(names):
            values = [r.get(name) for r in records.values()]
            if all(v is None or type(v) in (int, float) for v in values):
                self._columns[name] = np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def __getitem__(self, image: str) -> Record:
        at = self._places[image]
        values = {name: float(column[at]) for name, column in self._columns.items()}
        return {"image": image} | {name: None if math.isnan(v) else v for name, v in values.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def without_records(result: Result, names: Iterable[str]) -> Result:
    """A cell that has only :class:`Numbers` instead of its records, and the statistics of all of them.

    Args:
        result: the cell.
        names: the keys of the records that are needed.
    """
    for name in result.measures:
        result.entry(name)
    light = replace(result, records=Numbers(result.records, names), _entries=dict(result._entries))
    light.__dict__.update(failures=result.failures, passes=result.passes)
    return light


def read_results(folder: str | Path) -> list[Result]:
    """All cells with a record at any depth below a folder, sorted by path; of copies of a cell the fullest.

    Raises:
        UserError: no such folder, no cell in it, or a damaged card.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"results_dir={folder} is no folder: compute something first (python run.py), or give another one.")
    cells: dict[str, list[Result]] = {}
    for path in cell_folders(folder):
        results = read_cell(path)
        data_folders.declare_configured(results[0].configuration["dataset"])
        digest = results[0].card["hash"]
        if results[0].records and (digest not in cells or len(results[0].records) > len(cells[digest][0].records)):
            cells[digest] = results
    if not cells:
        raise UserError(f"results_dir={folder} has no cell with a record: compute something first (python run.py).")
    return [r for results in sorted(cells.values(), key=lambda c: c[0].folder.as_posix()) for r in results]


def cell_folders(root: Path) -> Iterator[Path]:
    """The folders with a card, at any depth, in order."""
    for at, inner, files in os.walk(root):
        inner.sort()
        if "card.yaml" in files:
            inner.clear()  # below are maps and pictures
            yield Path(at)


def preset(method: str) -> dict[str, Any]:
    """The settings of ``conf/method/<method>.yaml``, as a card has them; empty where there is no such file."""
    file = conf_file("method", method)
    return _preset(method, file) if file else {}


@functools.cache
def _preset(method: str, file: Path) -> dict[str, Any]:
    """The settings of a method's file, which is known by its place too."""
    node = OmegaConf.to_container(composed([f"method={method}"]).method, resolve=True)
    return settings_of("method", make_target(node, "method", Explainer))


def was_explained(record: Record | None) -> bool:
    """Whether the image of a record was decoded and explained."""
    return record is not None and record["status"] in EXPLAINED


def summary_of(card: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """The summary of a cell: a pure function of its card and records, without times, so that it is the same bit for bit.

    Every mean has its n: images on which the metric is not defined are missing from n, and counted under failures. A column
    that some record lacks (a stopped run was adding it) is left out.
    """
    read = [r for r in records if was_explained(r)]
    complete = [key for key in card["columns"] if all(key in r for r in records)]
    columns = {key: metric_of(card["columns"][key], f"columns.{key}") for key in complete}
    costs = ("forwards", "explain_forwards", "explain_tail_forwards", "explain_backwards")
    return {
        **{group: card["identity"][group]["name"] for group in ("dataset", "model", "method")},
        "hash": card["hash"],
        "n": len(records),
        "records": digest_of(records),
        "metrics": {key: entry_of(metric, key, records) for key, metric in columns.items()},
        "failures": failures_of(records, any("boxes" in m.needs for m in columns.values())),
        "cost": {key: float(np.mean([r[key] for r in read])) if read else None for key in costs},
    }


def entry_of(metric: Metric | None, name: str, records: Sequence[Record]) -> Entry:
    """Mean, interval and n of a key of the records; images on which it is not defined are missing from n.

    Raises:
        UserError: a value that is no number, of a metric whose values are.
    """
    known = [r for r in records if r.get(name) is not None]
    summarise = getattr(metric, "summarise", None)
    if summarise:
        return summarise([r[name] for r in known], [r["label"] for r in known])
    for r in known:
        if type(r[name]) not in (int, float) or not abs(r[name]) < LARGEST:
            raise UserError(f"the record of image {r['image']!a:.120} is damaged: {name} is {r[name]!a:.40}; delete its line.")
    return mean_interval([r[name] for r in known])


def failures_of(records: Sequence[Record], boxes: bool) -> dict[str, int]:
    """Counts what went wrong; ``boxes``: whether images without a box count."""
    read = [r for r in records if r["status"] in EXPLAINED]
    by_status = Counter(r["status"] for r in records)
    failures = {
        "wrong_class": sum(r["label"] is not None and r["predicted"] != r["label"] for r in read),
        **{status: by_status[status] for status in ("degenerate", "unreadable", "missing")},
        **({"no_map": by_status["no_map"]} if by_status["no_map"] else {}),
    }
    if spoilt := sum(bool(r.get("not_finite")) for r in read):
        failures["not_finite"] = spoilt
    if boxes:
        failures["no_box"] = sum(r["boxes"] == 0 for r in read)
        failures["boxes_lost"] = sum(r["boxes_lost"] for r in read)
    return failures


def numbers(results: Sequence[Result], name: str) -> list[list[float]] | None:
    """A measure of several cells on the images for which all of them have it: one list per cell, the images in one order.

    None where the measure is no number per image.
    """
    first = results[0].records
    common = [i for i in first if all(r.records.get(i, {}).get(name) is not None for r in results)]
    columns = [[r.records[i][name] for i in common] for r in results]
    # cells whose records were reduced to numbers have no labels, and no metric that asks for them
    return comparable(results[0].measures[name].metric, columns, [first[i].get("label") for i in common])


def compare(a: Result, b: Result, name: str) -> Entry | None:
    """a - b of a measure, image by image (:func:`metrics.statistics.paired`); None where it can't be."""
    values = numbers([a, b], name)
    return None if values is None or len(values[0]) < 2 else paired(*values)


def differing(protocols: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that are not the same in all of several protocols, in their order."""
    several = list(protocols)
    keys = dict.fromkeys(k for p in several for k in p)
    return [k for k in keys if any(p.get(k) != several[0].get(k) for p in several)]


def key_value_text(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in keys.items())
