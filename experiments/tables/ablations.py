"""Finds sweeps over one decision among all cells by their cards, whatever command computed them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.store.reading import Measure, Result, differing, key_value_text
from experiments.tables.columns import LEVEL, Column
from experiments.tables.specs import ABLATIONS, Ablation, ablated_measures
from experiments.tables.text import arrow
from metrics.statistics import Entry


@dataclass(frozen=True, eq=False)
class AblationSweep:
    """One method on one data set and network while one thing varies.

    Args:
        ablation: what varies.
        dataset, model, method: names.
        apart: keys that tell it from another sweep of the same names.
        curves: for each measure the cells by label of the value, in the order of the values.
        usual: the label of the method's usual setting; None where there is none.
        notes: what was left out.
    """

    ablation: Ablation
    dataset: str
    model: str
    method: str
    apart: Mapping[str, Any]
    curves: Mapping[str, Column]
    usual: str | None
    notes: Sequence[str]

    @property
    def title(self) -> str:
        return " / ".join([self.dataset, self.model, self.method, *([key_value_text(self.apart)] if self.apart else [])])

    @property
    def labels(self) -> list[str]:
        return sorted({label for column in self.curves.values() for label in column.cells}, key=_natural)

    @property
    def cells(self) -> list[Result]:
        return list(dict.fromkeys(cell for column in self.curves.values() for cell in column.cells.values()))

    def changes(self, name: str) -> dict[str, Entry]:
        """Each value of a measure minus the usual one, image by image."""
        column = self.curves[name]
        if self.usual is None or self.usual not in column.cells:
            return {}
        return column.against(self.usual, [label for label in column.cells if label != self.usual])

    def significant(self, name: str) -> set[str]:
        return {label for label, entry in self.changes(name).items() if entry["p_holm"] < LEVEL}


def ablation_sweeps(results: Sequence[Result], ablations: Sequence[Ablation] = ABLATIONS) -> list[AblationSweep]:
    """All sweeps of at least two values, by ablation."""
    all_sweeps = []
    names = ablated_measures(results)
    for ablation in ablations:
        groups: dict[tuple[str, ...], list[Result]] = {}
        for r in results:
            if ablation.holds(r):
                groups.setdefault((r.dataset, r.model, r.method, _frozen(r.protocol, ablation)), []).append(r)
        several = {key: sweep for key, group in groups.items() if (sweep := _sweep(ablation, group, names)) is not None}
        for (dataset, model, method, _), sweep in several.items():
            same = [s for (d, m, x, _), s in several.items() if (d, m, x) == (dataset, model, method)]
            keys = differing([s.cells[0].protocol for s in same]) if len(same) > 1 else []
            apart = {k: sweep.cells[0].protocol[k] for k in keys if k != ablation.free}
            all_sweeps.append(AblationSweep(ablation, dataset, model, method, apart, sweep.curves, sweep.usual, sweep.notes))
    return all_sweeps


def _sweep(ablation: Ablation, group: Sequence[Result], names: Sequence[str]) -> AblationSweep | None:
    curves: dict[str, Column] = {}
    notes = []
    for name in names:
        having = [r for r in group if name in r.measures and ablation.label(r, name) is not None]
        alike: dict[str, list[Result]] = {}
        for r in having:
            alike.setdefault(_frozen(r.measures[name].protocol, ablation), []).append(r)
        if not alike:
            continue
        ordered = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
        cells: dict[str, Result] = {}
        for r in ordered[0][1]:
            label = str(ablation.label(r, name))
            if label not in cells or r.entry(name)["n"] > cells[label].entry(name)["n"]:
                cells[label] = r
        if len(cells) > 1:
            measure: Measure = ordered[0][1][0].measures[name]
            curves[name] = Column(measure, arrow(measure), {k: cells[k] for k in sorted(cells, key=_natural)})
            out = [r.digest for _, left in ordered[1:] for r in left]
            if out:
                notes.append(f"{name}: measured in another way, left out: {', '.join(out)}.")
    if not curves:
        return None
    first = group[0]
    usual = next((ablation.label(r, name) for name in curves for r in group if ablation.key and not r.settings), None)
    return AblationSweep(ablation, first.dataset, first.model, first.method, {}, curves, usual, notes)


def _frozen(protocol: Mapping[str, Any], ablation: Ablation) -> str:
    return json.dumps({k: v for k, v in protocol.items() if k != ablation.free}, sort_keys=True)


def _natural(label: str) -> list[tuple[int, float, str]]:
    """Numbers by size, also inside names (layer2 before layer10); words after numbers."""
    return [
        (0, float(p), "") if re.fullmatch(r"\d+(\.\d+)?", p) else (1, 0.0, p) for p in re.split(r"(\d+(?:\.\d+)?)", label) if p
    ]
