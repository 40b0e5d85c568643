"""What a sweep says beside its table: how often protocols disagree, and the sanity check's stages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from omegaconf import OmegaConf
from tabulate import tabulate

from experiments.config import CONF, make_target
from experiments.records import writing
from experiments.runner import Finished
from experiments.tables import arrow, number
from metrics.base import Metric
from metrics.sanity import CONTROLS, Sanity


def after_sweep(cells: Sequence[Finished], metrics: Mapping[str, Metric], folder: Path) -> list[str]:
    """Texts for the user; pictures go to the folder."""
    texts = []
    for dataset, model in dict.fromkeys((c.dataset, c.model) for c in cells):
        group = [c for c in cells if (c.dataset, c.model) == (dataset, model)]
        if any(getattr(m, "protocol", None) for m in metrics.values()) and len(group) > 1:
            texts.append(f"{dataset} / {model}: do the protocols agree?\n\n{flips(group, metrics)}")
        if any(isinstance(m, Sanity) for m in metrics.values()):
            texts.append(f"{dataset} / {model}: sanity check\n\n{sanity(group, folder / f'sanity-{dataset}-{model}.png')}")
    return texts


def flips(cells: Sequence[Finished], metrics: Mapping[str, Metric]) -> str:
    """How often two settings of a metric rank two methods the other way round, by their means and on single images.

    Ties count as no flip.
    """
    rows = []
    for kind in dict.fromkeys(type(m) for m in metrics.values() if getattr(m, "protocol", None)):
        names = [n for n, m in metrics.items() if type(m) is kind]
        for one, other in itertools.combinations(names, 2):
            turned: list[bool] = []
            single: list[bool] = []
            for a, b in itertools.combinations(cells, 2):
                first, second = (_differences(a, b, name) for name in (one, other))
                known = ~(np.isnan(first) | np.isnan(second))
                single += (first[known] * second[known] < 0).tolist()
                turned.append(bool(first[known].mean() * second[known].mean() < 0) if known.any() else False)
            rows.append(
                [
                    metrics[one].label,
                    metrics[other].label,
                    f"{sum(turned)} of {len(turned)}",
                    f"{100 * np.mean(single):.1f} % of {len(single)}" if single else "-",
                ]
            )
    head = ["setting", "other setting", "pairs of methods whose order flips", "flips on single images"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def _differences(a: Finished, b: Finished, metric: str) -> Any:
    """a - b for each image that both have, NaN where a value is missing."""
    values = {r["image"]: r.get(metric) for r in b.records}
    return np.array(
        [
            r[metric] - values[r["image"]] if r.get(metric) is not None and values.get(r["image"]) is not None else np.nan
            for r in a.records
        ],
        dtype=np.float64,
    )


def sanity(cells: Sequence[Finished], picture: Path) -> str:
    """Similarity to the original map at each stage, as a table; Spearman's also drawn."""
    rows, lines = [], []
    for cell in cells:
        for entry in cell.summary["metrics"].values():
            stages = entry.get("stages")
            if not stages:
                continue
            for stage, values in stages.items():
                said = [f"{number(v['mean'])} [{number(v['ci95'][0])}, {number(v['ci95'][1])}]" for v in values.values()]
                rows.append([cell.method, stage, *said, values["spearman"]["n"]])
            means = {stage: values["spearman"]["mean"] for stage, values in stages.items()}
            lines.append((cell.method, means))
    with writing(picture.parent):
        picture.parent.mkdir(parents=True, exist_ok=True)
        _draw(lines, picture)
    table = tabulate(rows, ["method", "random from", "Spearman", "SSIM", "n"], tablefmt="github", disable_numparse=True)
    return f"{table}\n\ndrawn: {picture}"


def _draw(lines: Sequence[tuple[str, Mapping[str, float | None]]], picture: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for method, means in lines:
        stages = [s for s in means if s not in CONTROLS]
        values = [means[CONTROLS[0]], *(means[s] for s in stages)]
        (line,) = axis.plot(
            range(len(values)), [np.nan if v is None else v for v in values], "o-", label=f"{method} (dotted: other seed)"
        )
        floor = means[CONTROLS[1]]
        if floor is not None:
            axis.axhline(floor, color=line.get_color(), linestyle=":", linewidth=0.8)
        axis.set_xticks(range(len(values)), [CONTROLS[0], *stages], rotation=30, ha="right", fontsize=7)
    axis.set(ylabel="Spearman's rank correlation with the original map", xlabel="random from this layer to the output")
    axis.legend(fontsize=7)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def metric_list() -> str:
    """Every metric that has a conf file, as a table."""
    from experiments.cli import composed

    rows: dict[str, list[Any]] = {}
    for path in sorted((CONF / "metrics").glob("*.yaml")):
        resolved: Any = OmegaConf.to_container(composed([f"metrics=[{path.stem}]"]), resolve=True)
        for name, node in resolved["metrics"].items():
            m = make_target(node, f"metrics.{name}", Metric)
            if name not in rows or path.stem in (name, rows[name][1]):
                needs = ", ".join(sorted(m.needs)) or "-"
                rows[name] = [name, path.stem, arrow(m), f"[{m.low:g}, {m.high:g}]", m.unit, needs, m.version, m.reference]
    head = ["metric", "conf/metrics", "in tables", "range", "unit", "needs", "version", "reference"]
    return tabulate(rows.values(), head, tablefmt="github", disable_numparse=True)
