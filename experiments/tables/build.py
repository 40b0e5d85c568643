"""All tables but those of finished studies, as text: a pure function of the cells' cards and records."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from experiments.store.reading import Result
from experiments.tables import comparisons, published, render
from experiments.tables.ablations import ablation_sweeps
from experiments.tables.columns import blocks
from experiments.tables.specs import ABLATIONS, FURTHER, SPECS, specs_of

# every file that tables may write: one that is there but no longer given by the records is out of date
FILES = tuple(
    f"{name}.{suffix}"
    for names, suffixes in (
        ([s.name for s in SPECS], ("md", "csv", "tex")),
        ([f"ablation_{a.name}" for a in ABLATIONS], ("md", "csv")),
        (["statistics", "published"], ("md", "csv")),
    )
    for name in names
    for suffix in suffixes
)


def build(results: Sequence[Result], folder: Path, reference: str = "") -> dict[str, str]:
    """The files by name.

    Args:
        results: cells.
        folder: where the files go; cards are named from there.
        reference: the method that statistics compare all others with; empty: the best baseline.
    """
    files = {}
    for spec in tqdm(specs_of(results), desc="tables", unit="table", leave=False):
        table_blocks = blocks(results, spec.measures, spec.rows)
        if table_blocks:
            files[f"{spec.name}.md"] = render.markdown(spec, table_blocks, folder)
            files[f"{spec.name}.csv"] = render.tidy(spec, table_blocks, folder)
            files[f"{spec.name}.tex"] = render.latex(spec, table_blocks)
    swept = ablation_sweeps(results)
    for ablation in ABLATIONS:
        own = [s for s in swept if s.ablation is ablation]
        if own:
            files[f"ablation_{ablation.name}.md"] = render.ablation_markdown(ablation.title, own, folder)
            files[f"ablation_{ablation.name}.csv"] = render.ablation_tidy(own, folder)
    columns = comparisons.compare_columns(results, reference)
    if columns:
        files["statistics.md"] = comparisons.markdown(columns, reference)
        files["statistics.csv"] = comparisons.tidy(columns)
    lines = published.joined(results)
    files["published.md"] = published.markdown(results, lines)
    files["published.csv"] = published.tidy(lines)
    return files


def files_in(folder: Path, names: Sequence[str] = FILES) -> list[str]:
    """The files that tables may write to a folder: those that always may, and the tables of further metrics that are there."""
    further = (p.name for p in sorted(folder.glob(f"{FURTHER}*")) if p.suffix in (".md", ".csv", ".tex"))
    return list(dict.fromkeys([*names, *further]))


def find_outdated(files: Mapping[str, str], folder: Path, names: Sequence[str] = FILES) -> list[str]:
    """The tables in a folder that are not as the records give them, a line each.

    Args:
        files: what the records give (:func:`build`).
        folder: where the tables lie.
        names: the files that may lie there, whatever the metrics are.
    """
    outdated = []
    for name in dict.fromkeys([*files_in(folder, names), *(name for name in files if name.startswith(FURTHER))]):
        path, text = folder / name, files.get(name)
        there = path.read_text(encoding="utf-8") if path.exists() else None
        if there == text:
            continue
        if text is None:
            outdated.append(f"{path}: no records give it")
        elif there is None:
            outdated.append(f"{path}: is not there")
        else:
            lines = itertools.zip_longest(there.splitlines(), text.splitlines())
            different = ((at, old, new) for at, (old, new) in enumerate(lines, 1) if old != new)
            line, old, new = next(different, (0, "", ""))  # line ends alone may differ
            outdated.append(f"{path}, line {line}: is {old!r}, the records give {new!r}")
    return outdated
