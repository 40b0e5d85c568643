"""Our numbers beside the published ones (``results/published.csv``), and whether the methods' order agrees.

A number is compared where ours was measured on the same data set, with the same network and its published weights, by the
settings that are known of the published protocol; everywhere else the line says why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command.configuration import CONF
from experiments.store.reading import Result
from experiments.tables.columns import blocks
from experiments.tables.render import as_csv
from experiments.tables.text import FEWEST, HOLE, bounds, limits, number, p_value, table
from metrics.statistics import Entry
from suny.later import Later

if TYPE_CHECKING:
    import pandas as pd
    from scipy import stats
else:
    pd = Later("pandas")
    stats = Later("scipy.stats")

PUBLISHED = CONF.parent / "results" / "published.csv"

# The published names of data sets, networks, methods and metrics, and ours.
NAMES = {
    "ILSVRC2012": "ilsvrc2012", "CUB-200-2011": "cub",
    "VGG16": "vgg16", "Inception-v3": "inception_v3", "ResNet50": "resnet50",
    "Grad-CAM": "gradcam", "Grad-CAM++": "gradcampp", "SmoothGrad": "smoothgrad", "RISE": "rise", "Score-CAM": "scorecam",
    "CexCNN": "cexcnn", "Group-CAM": "groupcam", "SUNY": "suny", "SUNY-N": "suny_n", "SUNY-S": "suny_s",
    "deletion": "deletion", "insertion": "insertion", "overall": "overall",
    "energy_proportion_percent": "energy_proportion", "saliency_attack": "saliency_attack",
}  # fmt: skip

# The published numbers were surely made with these, as far as a card can tell.
_CLASSES = {"ilsvrc2012": 1000, "cub": 200}
_POINTS = (29, 225)


@dataclass(frozen=True)
class PublishedNumber:
    """One published number and ours.

    Args:
        dataset, model, method, metric: published names.
        value: the published number.
        ours: mean, interval and n in the published unit; None where there is nothing to compare.
        why: what stands in the way of a comparison.
    """

    dataset: str
    model: str
    method: str
    metric: str
    value: float
    ours: Entry | None
    why: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.ours is None else self.ours["mean"] - self.value

    @property
    def within(self) -> bool | None:
        """Whether the published number lies in our interval."""
        if self.ours is None:
            return None
        low, high = limits(self.ours)
        return None if low is None or high is None else low <= self.value <= high


def joined(results: Sequence[Result], path: Path = PUBLISHED) -> list[PublishedNumber]:
    """Every published number with ours, in the published order."""
    rows = pd.read_csv(path, dtype={"value": float}).to_dict("records")
    lines = []
    for row in rows:
        dataset, model, method, metric = (str(row[k]) for k in ("dataset", "model", "method", "metric"))
        entry, why = _ours(results, NAMES[dataset], NAMES[model], NAMES[method], NAMES[metric])
        if entry is not None and metric.endswith("_percent"):
            entry = {**entry, "mean": 100 * entry["mean"], "ci95": [v if v is None else 100 * v for v in entry["ci95"]]}
        lines.append(PublishedNumber(dataset, model, method, metric, float(row["value"]), entry, why))
    return lines


def _ours(results: Sequence[Result], dataset: str, model: str, method: str, metric: str) -> tuple[Entry | None, str]:
    if metric == "saliency_attack":
        return None, "the published protocol is not public"
    measured = [r for r in results if r.method == method and metric in r.measures and not r.settings]
    here = [r for r in measured if (r.dataset, r.model) == (dataset, model)]
    if not here:
        networks = sorted({r.model for r in measured if r.dataset == dataset})
        datasets = sorted({r.dataset for r in measured if r.model == model})
        if networks:
            return None, f"other network: {', '.join(networks)}"
        if datasets:
            return None, f"other data: {', '.join(datasets)}"
        places = ", ".join(sorted({f"{r.dataset} / {r.model}" for r in measured}))
        return None, f"other data and network: {places}" if places else "not computed"
    reasons = {r.digest: _stands_in_the_way(r, metric) for r in here}
    good = [r for r in here if not reasons[r.digest]]
    if not good:
        return None, reasons[here[0].digest]
    # where several cells compare, the one with the most images counts, then the finest curve
    best = max(good, key=lambda r: (r.entry(metric)["n"], r.measures[metric].protocol.get("points", 0), r.digest))
    return best.entry(metric), ""


def _stands_in_the_way(result: Result, metric: str) -> str:
    """Why a cell of the same data set, network and method does not compare; empty where it does."""
    model, protocol = result.configuration["model"], result.measures[metric].protocol
    classes = model.get("num_classes")
    if model.get("weights") == "random" and not model.get("checkpoint"):
        return "other network: random weights"
    if result.dataset == "cub" and not model.get("checkpoint"):
        return "other network: not trained on this data set"
    if result.dataset == "ilsvrc2012" and model.get("checkpoint"):
        return "other network: own weights"
    if classes is not None and classes != _CLASSES[result.dataset]:
        return f"other network: {classes} classes"
    if result.protocol["explained_class"] != "predicted":
        return f"other protocol: explained class {result.protocol['explained_class']}"
    if protocol.get("points", _POINTS[0]) not in _POINTS:
        return f"other protocol: {protocol['points']} points"
    usual = {"fill": {"deletion": "zero", "insertion": "blur"}.get(metric), "deletion_fill": "zero", "insertion_fill": "blur"}
    other = [f"{k}={protocol[k]}" for k, v in usual.items() if v is not None and protocol.get(k, v) != v]
    if other:
        return f"other protocol: {', '.join(other)}"
    return "no image with a value" if result.entry(metric)["mean"] is None else ""


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of a published column with one of ours.

    Args:
        dataset, model, metric: published names of the column.
        ours: our data set and network, and what tells our column from another.
        same: whether the numbers themselves compare (or what is other).
        tau, p: over the methods that both have; None for fewer than five, or where all are tied.
        methods: how many.
    """

    dataset: str
    model: str
    metric: str
    ours: str
    same: str
    tau: float | None
    p: float | None
    methods: int


def agreements(results: Sequence[Result], lines: Sequence[PublishedNumber]) -> list[Agreement]:
    """Each published column with each of our columns of the same metric and data set."""
    all_agreements = []
    for dataset, model, metric in dict.fromkeys((x.dataset, x.model, x.metric) for x in lines):
        here = [x for x in lines if (x.dataset, x.model, x.metric) == (dataset, model, metric)]
        theirs = {NAMES[x.method]: x.value for x in here}
        same_data = [r for r in results if r.dataset == NAMES[dataset]]
        for block in blocks(same_data, [NAMES[metric]]):
            for column in block.columns:
                both = [row for row in theirs if row in column.ranked]
                if len(both) < 3:
                    continue
                values = [column.cells[row].entry(NAMES[metric])["mean"] for row in both]
                tau, p = (float(x) for x in stats.kendalltau([theirs[row] for row in both], values))
                known = len(both) >= FEWEST and tau == tau  # not where all are tied
                wrong = [_stands_in_the_way(column.cells[row], NAMES[metric]) for row in both]
                same = f"other network: {block.model}" if block.model != NAMES[model] else next(filter(None, wrong), "same")
                if metric == "saliency_attack":
                    same = f"{same}; other protocol" if same != "same" else "other protocol"
                ours = f"{block.title}, {column.title}"
                all_agreements.append(
                    Agreement(dataset, model, metric, ours, same, tau if known else None, p if known else None, len(both))
                )
    return all_agreements


def markdown(results: Sequence[Result], lines: Sequence[PublishedNumber]) -> str:
    compared = [x for x in lines if x.ours is not None]
    inside = sum(x.within is True for x in compared)
    parts = [
        "# Beside the published numbers",
        f"{len(lines)} published numbers (results/published.csv), {len(compared)} of them compared; "
        f"{inside} lie in our 95% interval. The published numbers have no interval and no n; their images are not known.",
        "## Agreement of the rankings",
        "Kendall's tau between the published order of the methods and ours, for each column with three methods or more; of "
        "fewer than five it says nothing, and is not shown. 1: the same order, 0: none, -1: reversed. "
        "With another network the order may be compared, the numbers may not.",
    ]
    rows = [
        [a.dataset, a.model, a.metric, a.ours, a.same, number(a.tau, 2), p_value(a.p), a.methods]
        for a in agreements(results, lines)
    ]
    head = ["data", "network", "metric", "ours", "comparable", "tau", "p", "methods"]
    parts.append(table(head, rows) if rows else "No column of ours has three of the published methods yet.")
    parts.append("## Number by number")
    for dataset, model in dict.fromkeys((x.dataset, x.model) for x in lines):
        here = [x for x in lines if (x.dataset, x.model) == (dataset, model)]
        if any(x.ours for x in here):
            parts += [f"### {dataset} / {model}", table(_HEAD, [_row(x) for x in here])]
        else:
            reasons = "; ".join(dict.fromkeys(x.why for x in here))
            parts.append(f"{dataset} / {model}: nothing to compare with {len(here)} numbers ({reasons}).")
    return "\n\n".join(parts) + "\n"


_HEAD = ["method", "metric", "published", "ours", "n", "difference", "published number in our interval"]


def _row(line: PublishedNumber) -> list[Any]:
    digits = 2 if line.metric.endswith("percent") else 4
    start = [line.method, line.metric, number(line.value, digits)]
    if line.ours is None:
        return [*start, f"({line.why})", "-", "-", "-"]
    words: Mapping[bool | None, str] = {True: "yes", False: "no", None: HOLE}
    mean = f"{number(line.ours['mean'], digits)} {bounds(line.ours, digits)}"
    return [*start, mean, line.ours["n"], f"{line.difference:+.{digits}f}", words[line.within]]


def tidy(lines: Sequence[PublishedNumber]) -> str:
    """All published numbers, a line each."""
    head = (
        "dataset", "model", "method", "metric", "published", "ours", "low", "high", "n", "difference", "within_interval",
        "not_compared",
    )  # fmt: skip
    rows = [
        [
            x.dataset, x.model, x.method, x.metric, x.value,
            *([x.ours["mean"], *limits(x.ours), x.ours["n"], x.difference, x.within] if x.ours else [None] * 6), x.why,
        ]
        for x in lines
    ]  # fmt: skip
    return as_csv(head, rows)
