"""Tables as Markdown, CSV (one line per number, with everything that belongs to it) and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.store.reading import Result
from experiments.tables.ablations import AblationSweep
from experiments.tables.columns import Block, Column
from experiments.tables.specs import Spec
from experiments.tables.text import HOLE, bounds, describe_failures, interval, limits, number, table

_MARKS = {"best": "**", "second": "*"}
_LATEX = {"best": r"\textbf{%s}", "second": r"\underline{%s}"}
_TITLES = {
    "gradcam": "Grad-CAM", "gradcampp": "Grad-CAM++", "smoothgrad": "SmoothGrad", "rise": "RISE", "scorecam": "Score-CAM",
    "cexcnn": "CexCNN", "groupcam": "Group-CAM", "suny": "SUNY", "suny_n": "SUNY-N", "suny_s": "SUNY-S",
    "vgg16": "VGG16", "inception_v3": "Inception-v3", "resnet50": "ResNet50", "ilsvrc2012": "ILSVRC2012", "cub": "CUB-200-2011",
}  # fmt: skip
_CSV = (
    "table", "dataset", "model", "apart", "method", "measure", "column", "higher_is_better", "mean", "low", "high", "n",
    "images", "mark", "card", "hash",
)  # fmt: skip

LEGEND = (
    "Mean [95% bootstrap interval over images]; n in the cell where it is not the line's. **Bold**: the best mean (★) and all "
    "methods that do not differ significantly from it, image by image (Wilcoxon's signed ranks, Holm, .05); *italic*: the same "
    "among the others. Nothing is marked where the images are too few for any difference to be significant."
)


def markdown(spec: Spec, blocks: Sequence[Block], folder: Path) -> str:
    """A table per block. Paths of cells are given from ``folder``."""
    parts = [f"# {spec.title}", *([spec.note] if spec.note else []), LEGEND]
    for block in blocks:
        parts += [f"## {block.title}", _about(block)]
        rows = [
            [
                row,
                count_text(block, row),
                *(cell_text(c, row, block, marked=True) for c in block.columns),
                failures_text(block, row),
            ]
            for row in block.rows
        ]
        parts.append(table(["method", "n", *(c.title for c in block.columns), "failures"], rows))
        parts += block.notes
        parts.append(_cards(block.cells, folder))
    missing = _missing(spec, blocks)
    parts += [f"No results yet for {', '.join(missing)}."] if missing else []
    return "\n\n".join(parts) + "\n"


def tidy(spec: Spec, blocks: Sequence[Block], folder: Path) -> str:
    """One line per number."""
    lines = []
    for block in blocks:
        apart = "; ".join(f"{k}={v}" for k, v in block.apart.items())
        for row in block.rows:
            for column in block.columns:
                cell, entry = column.cells.get(row), column.entry(row)
                if cell is None or entry is None:
                    continue
                lines.append(
                    [
                        spec.name, block.dataset, block.model, apart, row, column.measure.name, column.title,
                        column.measure.higher_is_better, entry["mean"], *limits(entry), entry["n"],
                        cell.count, column.marks.get(row, ""), _path(cell, folder), cell.digest,
                    ]
                )  # fmt: skip
    return as_csv(_CSV, lines)


def as_csv(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in line] for line in lines)
    return out.getvalue()


def latex(spec: Spec, blocks: Sequence[Block]) -> str:
    """One table (booktabs) per data set: networks side by side, as published; means only, the intervals are in the CSV."""
    parts = ["% \\usepackage{booktabs}"]
    for dataset in dict.fromkeys(b.dataset for b in blocks):
        here = [b for b in blocks if b.dataset == dataset]
        rows = list(dict.fromkeys(row for block in here for row in block.rows))
        cells = {cell.row: cell for block in here for cell in block.cells}
        spans, rules, at = [], [], 2
        for block in here:
            width = len(block.columns)
            title = " ".join(
                [
                    _title(block.model, block.cells[0], "model"),
                    *([f"({', '.join(f'{k}={v}' for k, v in block.apart.items())})"] * bool(block.apart)),
                ]
            )
            spans.append(f"\\multicolumn{{{width}}}{{c}}{{{_tex(title)}}}")
            rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
        counts = sorted({len(c.records) for b in here for c in b.cells})
        images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        data = _title(dataset, here[0].cells[0], "dataset")
        caption = (
            f"{_tex(spec.title)}. {_tex(data)}, {images} images. Bold: the best mean and all that do not differ "
            "significantly from it; underlined: the same among the others."
        )
        lines = [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{spec.name}-{dataset}}}".replace("_", "-"),
            f"\\begin{{tabular}}{{l{'r' * (at - 2)}}}",
            r"\toprule",
            " & ".join(["", *spans]) + r" \\",
            " ".join(rules),
            " & ".join(["method", *(_tex(c.title) for b in here for c in b.columns)]) + r" \\",
            r"\midrule",
            *(
                " & ".join([_tex(_title(row, cells.get(row))), *(_tex_cell(c, row) for b in here for c in b.columns)]) + r" \\"
                for row in rows
            ),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def ablation_markdown(title: str, sweeps: Sequence[AblationSweep], folder: Path) -> str:
    """A table per sweep, a line per value."""
    parts = [
        f"# Ablation: {title}",
        "Mean [95% bootstrap interval over images]; †: differs significantly from the usual setting, image by image "
        "(Wilcoxon's signed ranks, Holm, .05).",
    ]
    for sweep in sweeps:
        columns = [(name, column, sweep.significant(name)) for name, column in sweep.curves.items()]
        rows = []
        for label in sweep.labels:
            entries = [(column.entry(label), label in marked) for _, column, marked in columns]
            n = max((e["n"] for e, _ in entries if e), default=0)
            usual = " (usual)" if label == sweep.usual else ""
            rows.append([f"{label}{usual}", n, *(HOLE if e is None else interval(e) + " †" * m for e, m in entries)])
        head = [sweep.ablation.title, "n", *(column.title for _, column, _ in columns)]
        parts += [f"## {sweep.title}", table(head, rows), *sweep.notes, _cards(sweep.cells, folder)]
    return "\n\n".join(parts) + "\n"


def ablation_tidy(sweeps: Sequence[AblationSweep], folder: Path) -> str:
    head = (
        "ablation", "dataset", "model", "method", "apart", "value", "usual", "measure", "higher_is_better", "mean", "low",
        "high", "n", "difference", "difference_low", "difference_high", "pairs", "p", "p_holm", "effect", "card", "hash",
    )  # fmt: skip
    lines = []
    for sweep in sweeps:
        apart = "; ".join(f"{k}={v}" for k, v in sweep.apart.items())
        for name, column in sweep.curves.items():
            changes = sweep.changes(name)
            for label, cell in column.cells.items():
                entry, change = cell.entry(name), changes.get(label)
                lines.append(
                    [
                        sweep.ablation.name, sweep.dataset, sweep.model, sweep.method, apart, label, label == sweep.usual, name,
                        column.measure.higher_is_better, entry["mean"], *limits(entry), entry["n"],
                        *([change["mean"], *limits(change), change["n"], change["p"], change["p_holm"], change["effect"]]
                          if change else [""] * 7),
                        _path(cell, folder), cell.digest,
                    ]
                )  # fmt: skip
    return as_csv(head, lines)


def _about(block: Block) -> str:
    p = block.protocol
    layer = f"; layer {p['target_layer']}" if p.get("target_layer") else ""
    return (
        f"{p['images'].split()[0]} images; explained class: {p['explained_class']}{layer}; seed {p['seed']}; {p['precision']}."
    )


def count_text(block: Block, row: str) -> str:
    """Images of a method, ``of`` all where they are not all done."""
    cells = [c.cells[row] for c in block.columns if row in c.cells]
    if not cells:
        return HOLE
    fullest = max(cells, key=lambda c: len(c.records))
    return str(len(fullest.records)) + ("" if fullest.complete else f" of {fullest.count}")


def cell_text(column: Column, row: str, block: Block, marked: bool = False) -> str:
    """``mean [low, high]``, n where it is not the line's, the star of the best mean, and the signs of marks where asked for."""
    entry = column.entry(row)
    if entry is None or entry["mean"] is None:
        return HOLE
    digits = column.measure.digits
    mark = column.marks.get(row, "")
    sign = _MARKS.get(mark, "") if marked else ""
    star = " ★" if mark and row == column.ranked[0] else ""
    own = "" if str(entry["n"]) == count_text(block, row).split(" ")[0] else f" (n={entry['n']})"
    return f"{sign}{number(entry['mean'], digits)}{sign} {bounds(entry, digits)}{own}{star}"


def failures_text(block: Block, row: str) -> str:
    """A method's failures in words."""
    texts = [describe_failures(c.cells[row].failures) for c in block.columns if row in c.cells]
    return texts[0] if texts else HOLE


def _missing(spec: Spec, blocks: Sequence[Block]) -> list[str]:
    there = {(b.dataset, b.model) for b in blocks}
    return [f"{d} / {m}" for d, m in spec.places if (d, m) not in there]


def _cards(cells: Sequence[Result], folder: Path) -> str:
    return "Cards: " + ", ".join(f"[{c.row} {c.digest}]({_path(c, folder)})" for c in cells) + "."


def _path(cell: Result, folder: Path) -> str:
    return Path(os.path.relpath(cell.folder / "card.yaml", folder)).as_posix()


def _title(name: str, cell: Result | None, group: str = "method") -> str:
    """A name as a paper has it: as its class says on the card of a cell, or as the published tables have it."""
    first, _, rest = name.partition(" ")
    said = cell.title(group) if cell else None
    return " ".join([said or _TITLES.get(first, first), *([rest] if rest else [])])


def _tex_cell(column: Column, row: str) -> str:
    entry = column.entry(row)
    if entry is None or entry["mean"] is None:
        return "--"
    return _LATEX.get(column.marks.get(row, ""), "%s") % number(entry["mean"], column.measure.digits)


def _tex(text: str) -> str:
    for sign, command in (
        ("\\", r"\textbackslash "),
        *((c, f"\\{c}") for c in "&%$#_{}"),
        ("~", r"\textasciitilde "),
        ("^", r"\^{}"),
    ):
        text = text.replace(sign, command)
    return text.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")
