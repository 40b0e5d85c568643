"""The tables: their measures, in the order of the columns, and the rows that are always there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.store.reading import Result
from experiments.tables.columns import PAPER


@dataclass(frozen=True)
class Spec:
    """One table.

    Args:
        name: of its files.
        title: heading.
        measures: names of metrics or costs.
        rows: shown even where no cell has them: a hole.
        places: (data set, network) of the published table, in its order; what has no result is named below the table.
        note: what a reader must know.
    """

    name: str
    title: str
    measures: tuple[str, ...]
    rows: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    note: str = ""


_PLACES = tuple((d, m) for d in ("ilsvrc2012", "cub") for m in ("vgg16", "inception_v3", "resnet50"))

SPECS = (
    Spec("table1", "Table 1: deletion, insertion, overall", ("deletion", "insertion", "overall"), PAPER, _PLACES),
    Spec(
        "table2", "Table 2: localization, energy proportion", ("energy_proportion",), PAPER[:-2], _PLACES,
        "A fraction; the published table has percent.",
    ),
    Spec(
        "table3", "Table 3: saliency attack", ("saliency_attack",), PAPER, _PLACES,
        "Our own definition (metrics/attack.py): that of the published column is not public, its numbers do not compare.",
    ),
    Spec(
        "ns", "Necessity and sufficiency at equal area",
        (
            "necessity", "sufficiency", "necessity_sufficiency",
            "necessity_by_n", "necessity_by_s", "sufficiency_by_s", "sufficiency_by_n",
            "necessity_5", "sufficiency_5", "necessity_10", "sufficiency_10",
            "necessity_25", "sufficiency_25", "necessity_50", "sufficiency_50",
        ),
    ),
    Spec(
        "localization", "Localization, all measures",
        (
            "energy_proportion", "energy_proportion_mask", "pointing_game", "pointing_game_mask",
            "max_box_acc", "max_box_acc_v2", "iou",
            "part_hits", "part_hits_n", "part_hits_s",
        ),
    ),
    Spec(
        "causal", "Causal truth", ("auroc_n", "auroc_s", "pair_accuracy", "calibration_error", "auroc", "filter_agreement"),
        note="Images whose necessary and sufficient causes are known.",
    ),
    Spec(
        "cost", "Cost of an explanation",
        ("explain_forwards", "explain_tail_forwards", "explain_backwards", "explain_seconds"),
        note="The tail are the layers behind the target layer: its passes are far cheaper. Seconds depend on the machine.",
    ),
    Spec("sanity", "Sanity check: similarity after randomisation of the weights", ("sanity",)),
    Spec(
        "other", "Classical scores, and what the maps are like",
        ("average_drop", "increase_in_confidence", "tied_pixels", "entropy", "half_mass_area"),
    ),
)  # fmt: skip

# The files of tables of further metrics begin with this.
FURTHER = "metrics_"


def further_metrics(results: Sequence[Result]) -> dict[str, str]:
    """The group of each metric of some cells that is named in no table above, by the metric's name."""
    named = {name for spec in SPECS for name in spec.measures}
    measures = {name: m.metric for r in results for name, m in r.measures.items() if m.metric and name not in named}
    return {name: str(getattr(metric, "group", "other metrics")) for name, metric in measures.items()}


def specs_of(results: Sequence[Result]) -> list[Spec]:
    """The tables of some cells: those above, and one for each further group of metrics.

    A metric whose group is the name of a table above is a further column there.
    """
    groups: dict[str, list[str]] = {}
    for name, group in further_metrics(results).items():
        groups.setdefault(group, []).append(name)
    known = [replace(spec, measures=(*spec.measures, *groups.pop(spec.name, ()))) for spec in SPECS]
    return known + [
        Spec(FURTHER + re.sub(r"\W+", "_", group.lower()), group[:1].upper() + group[1:], tuple(names))
        for group, names in groups.items()
    ]


def measures_of(results: Sequence[Result]) -> tuple[str, ...]:
    """Every measure that says how good a map is, in the order of the tables."""
    return tuple(dict.fromkeys(name for spec in specs_of(results) if spec.name != "cost" for name in spec.measures))


def ablated_measures(results: Sequence[Result]) -> tuple[str, ...]:
    """The measures that plots and tables of ablations show, where they were measured."""
    return (*ABLATED, *further_metrics(results))


@dataclass(frozen=True)
class Ablation:
    """A sweep over one decision, everything else being the same.

    Args:
        name: of its files, ``ablation_<name>``, and of ``conf/experiment/ablation_<name>.yaml``.
        title: heading, and the axis of the plot.
        key: of the method's configuration; None where a key of the protocol is swept.
        free: that key of the protocol.
        unless: another key of the method and its value, to which ``key`` does not apply.
    """

    name: str
    title: str
    key: str | None = None
    free: str | None = None
    unless: tuple[str, str] | None = None

    def holds(self, result: Result) -> bool:
        """Whether a cell belongs to such a sweep: its method has the key, and nothing else is unusual."""
        allowed = {self.key, *(self.unless[:1] if self.unless else ())}
        return not result.stored and set(result.settings) <= allowed and (not self.key or result.setting(self.key) is not None)

    def label(self, result: Result, measure: str) -> str | None:
        """The value that a cell has; None where it has nothing to do with the measure."""
        if self.free:
            protocol = {**result.measures[measure].protocol, **result.protocol}
            return str(protocol[self.free]) if self.free in protocol else None
        if self.unless and result.setting(self.unless[0]) == self.unless[1]:
            return self.unless[1]
        return str(result.setting(str(self.key)))


# Plots and tables of ablations show these measures, and further metrics.
ABLATED = ("deletion", "insertion", "overall", "necessity", "sufficiency", "necessity_sufficiency", "energy_proportion")

ABLATIONS = (
    Ablation("layer", "target layer", free="target_layer"),
    Ablation("k", "number of candidates k", "k"),
    Ablation("candidates", "choice of candidates", "candidates"),
    Ablation("fill", "substrate of removed pixels", "fill"),
    Ablation("mask", "mask of a coalition", "mask"),
    Ablation("combine", "combination of both sides to one map", "combine"),
    Ablation("budget", "sampled orders", "orders", unless=("estimator", "exact")),
    Ablation("points", "points on the curves", free="points"),
    Ablation("seeds", "seed", free="seed"),
)
