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

from experiments.card import TEXTS
from experiments.cli import composed
from experiments.config import CONF, NAME, make_target
from experiments.progress import tell
from experiments.records import DONE, Cell, Record, read_records
from metrics.base import Metric
from metrics.statistics import Entry, mean_interval, paired
from suny.errors import UserError

# a method's family says what it is compared with
OWN, BASELINE, CONTROL = "own", "baseline", "control"

# of records whose image was explained
READ = ("ok", "degenerate")

# numbers in records are below: larger ones are no metric's
LARGEST = 1e300

# keys of a method's configuration that say nothing about what it does
_NO_SETTINGS = ("_target_", "name", "seed")

# what explaining an image costs, as records have it: label, digits, and whether the machine matters
_COSTS = {
    "explain_forwards": ("forwards/image", 0, False),
    "explain_tail_forwards": ("passes of the tail/image", 0, False),
    "explain_backwards": ("backwards/image", 0, False),
    "explain_seconds": ("s/image", 3, True),
}


@dataclass(frozen=True)
class Measure:
    """What one column of a table shows: a metric, or a cost.

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
    """One cell as it lies on the disk.

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
        return self.card["configuration"]

    @property
    def dataset(self) -> str:
        return self.configuration["dataset"]["name"]

    @property
    def model(self) -> str:
        return self.configuration["model"]["name"]

    @property
    def method(self) -> str:
        return self.configuration["method"]["name"]

    @property
    def digest(self) -> str:
        return self.card["hash"][:8]

    @functools.cached_property
    def failures(self) -> dict[str, int]:
        boxes = any("boxes" in m.metric.needs for m in self.measures.values() if m.metric)
        return failures_of(list(self.records.values()), boxes)

    @property
    def complete(self) -> bool:
        return len(self.records) == self.card["images"]["count"]

    @functools.cached_property
    def family(self) -> str:
        """Own, baseline or control; of stored maps as their method's conf file says."""
        target = str((preset(self.method) if self.stored else self.configuration["method"]).get("_target_"))
        return OWN if target.startswith("suny.") else CONTROL if target.startswith("baselines.controls.") else BASELINE

    @property
    def stored(self) -> bool:
        """Whether the maps were files, so that explaining cost nothing."""
        return str(self.configuration["method"].get("_target_")) == "baselines.precomputed.Precomputed"

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The method's keys that differ from its conf file; empty for stored maps and for a method without one."""
        usual = preset(self.method)
        if self.stored or not usual:
            return {}
        own = self.configuration["method"]
        return {k: v for k, v in own.items() if k not in _NO_SETTINGS and usual.get(k) != v}

    def setting(self, key: str) -> Any:
        """A key of the method's configuration, as it was or as the conf file has it."""
        return self.configuration["method"].get(key, preset(self.method).get(key))

    @property
    def row(self) -> str:
        """What a table calls the method: its name, and the keys that differ from its conf file."""
        return f"{self.method} ({_said(self.settings)})" if self.settings else self.method

    @functools.cached_property
    def protocol(self) -> dict[str, Any]:
        """Of the whole cell, by key: cells that differ in it are not compared."""
        card = self.card["protocol"]
        images = self.card["images"]
        return {
            "explained_class": card["explained_class"],
            "target_layer": card["target_layer"],
            **{f"preprocessing.{k}": v for k, v in card["preprocessing"].items()},
            "images": f"{images['count']} ({images['sha256'][:8]})",
            "weights": self.card["weights"]["sha256"][:8],
            "seed": self.card["seed"],
            "precision": self.configuration["precision"],
            "compile": self.configuration.get("compile", False),  # cards of earlier versions do not have the key
        }

    def entry(self, name: str) -> Entry:
        """Mean, interval, n of a measure: what the cell's summary has."""
        if name not in self._entries:
            self._entries[name] = entry_of(self.measures[name].metric, name, list(self.records.values()))
        return self._entries[name]


def read_result(folder: Path) -> Result:
    """One cell.

    Raises:
        UserError: the card is damaged.
    """
    card = Cell(folder).read_card()
    if card is None or not {"configuration", "protocol", "images", "weights", "seed"} <= set(card):
        raise UserError(f"{folder}/card.yaml is damaged: move the folder {folder} away.")
    names = [card["configuration"].get(group, {}).get("name") for group in ("dataset", "model", "method")]
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise UserError(f"{folder}/card.yaml is damaged (names: {names!a}): move the folder {folder} away.")
    records: dict[str, Record] = {}
    for record in read_records(folder, DONE):
        records.setdefault(record["image"], record)
    # by image, as the runner has them: an interval depends on the order
    result = Result(folder, card, dict(sorted(records.items())), {})
    measures: dict[str, Measure] = {}
    for name, protocol in card["protocol"]["metrics"].items():
        try:
            metric = make_target(card["configuration"]["metrics"].get(name), f"metrics.{name}", Metric)
        except UserError as error:
            tell(f"note: {folder}: {name} is left out: {error}")
            continue
        known = {k: v for k, v in protocol.items() if k not in TEXTS}
        measures[name] = Measure(name, metric.label, metric.higher_is_better, known, metric)
    if not result.stored:
        machine = {"batch_size": card.get("batch_size"), **card.get("machine", {})}
        for name, (label, digits, timed) in _COSTS.items():
            measures[name] = Measure(name, label, False, machine if timed else {}, None, digits)
    return Result(folder, card, result.records, measures)


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


def read_numbers(folder: Path, names: Iterable[str], entries: Mapping[str, Entry]) -> Result:
    """One cell without its records, of which it has :class:`Numbers` only.

    Args:
        folder: of the cell.
        names: the keys of the records that are needed.
        entries: of its summary, which need records to be made again.

    Raises:
        UserError: the card is damaged.
    """
    result = read_result(folder)
    return replace(result, records=Numbers(result.records, names), _entries=dict(entries))


def read_results(folder: Path) -> list[Result]:
    """All cells with a record at any depth below a folder, sorted by path; of copies of a cell the fullest.

    Raises:
        UserError: no such folder, no cell in it, or a damaged card.
    """
    if not folder.is_dir():
        raise UserError(f"results_dir={folder} is no folder: compute something first (python run.py), or give another one.")
    found: dict[str, Result] = {}
    for at, inner, files in os.walk(folder):
        inner.sort()
        if "card.yaml" not in files:
            continue
        inner.clear()  # below are maps and pictures
        result = read_result(Path(at))
        other = found.get(result.card["hash"])
        if result.records and (other is None or len(result.records) > len(other.records)):
            found[result.card["hash"]] = result
    if not found:
        raise UserError(f"results_dir={folder} has no cell with a record: compute something first (python run.py).")
    return sorted(found.values(), key=lambda r: r.folder.as_posix())


@functools.cache
def preset(method: str) -> dict[str, Any]:
    """The configuration of ``conf/method/<method>.yaml``; empty where there is no such file."""
    if not (CONF / "method" / f"{method}.yaml").is_file():
        return {}
    return OmegaConf.to_container(composed([f"method={method}"]).method, resolve=True)  # type: ignore[return-value]


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
    """What went wrong, counted; ``boxes``: whether images without a box count."""
    read = [r for r in records if r["status"] in READ]
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
    """A measure of several cells on the images that all of them have it for: a list a cell, the images in one order.

    None where the measure is no number an image.
    """
    metric = results[0].measures[name].metric
    each = getattr(metric, "each", None)
    if hasattr(metric, "summarise") and each is None:
        return None
    common = [i for i in results[0].records if all(r.records.get(i, {}).get(name) is not None for r in results)]
    columns: list[list[Any]] = [[r.records[i][name] for i in common] for r in results]
    if each:
        labels = [results[0].records[i]["label"] for i in common]
        columns = [each(values, labels) for values in columns]
    elif any(not isinstance(v, int | float) for values in columns for v in values):
        return None
    known = [at for at in range(len(common)) if all(values[at] is not None for values in columns)]
    return [[float(values[at]) for at in known] for values in columns]


def compared(a: Result, b: Result, name: str) -> Entry | None:
    """a - b of a measure, image by image (:func:`metrics.statistics.paired`); None where it can't be."""
    found = numbers([a, b], name)
    return None if found is None or len(found[0]) < 2 else paired(*found)


def differing(protocols: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that are not the same in all of several protocols, in their order."""
    several = list(protocols)
    keys = dict.fromkeys(k for p in several for k in p)
    return [k for k in keys if any(p.get(k) != several[0].get(k) for p in several)]


def _said(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in keys.items())
