"""Lists cells, so that folders can be told apart by eye: ``python -m experiments.list [results_dir=DIR]``.

For each cell: its folder, how many of its images are recorded, the settings in which it differs from the other cells of this
method on data and network of the same names, and its columns. A cell of an earlier version of the project is listed with
the command that brings it over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command.program import EXIT_OK, guarded, pairs
from experiments.store.reading import Result, cell_folders, differing, read_cell
from suny.errors import UserError


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    root = Path(pairs(arguments, {"results_dir": "results/runs"})["results_dir"]).expanduser()
    if not root.is_dir():
        raise UserError(f"results_dir={root} is no folder: compute something first (python run.py), or give another one.")
    cells: list[list[Result]] = []
    unread: list[str] = []
    for folder in cell_folders(root):
        try:
            cells.append(read_cell(folder))
        except UserError as error:
            unread.append(str(error))
    print("\n".join(described(results, cells, root) for results in cells) if cells else f"{root} has no cell.")
    for line in unread:
        print(line)
    return EXIT_OK


def described(results: Sequence[Result], cells: Sequence[Sequence[Result]], root: Path) -> str:
    """One cell in a few lines.

    Args:
        results: the cell (:func:`experiments.store.reading.read_cell`).
        cells: all that are listed.
        root: folders are named from there.
    """
    first = results[0]
    neighbours = [c[0] for c in cells if _place(c[0]) == _place(first)]
    keys = differing([_flat(n.identity) for n in neighbours])
    # digests say nothing where settings say why they differ
    explained = {"images": "dataset.", "weights": "model."}
    groups = [g for g, settings in explained.items() if any(k.startswith(settings) for k in keys)]
    shown = [k for k in keys if k.partition(".")[0] not in groups]
    own = _flat(first.identity)
    state = "complete" if first.complete else "unfinished"
    lines = [f"{first.folder.relative_to(root).as_posix()}   {len(first.records)} of {first.count} images, {state}"]
    if shown:
        lines.append(f"    differs in {', '.join(f'{k}={_short(own.get(k))}' for k in shown)}")
    counts = {key: sum(key in r for r in first.records.values()) for key in first.card["columns"]}
    columns = [key if n == len(first.records) else f"{key} (of {n} images)" for key, n in counts.items()]
    lines.append(f"    {', '.join(columns) or 'no column'}")
    return "\n".join(lines)


def _place(result: Result) -> tuple[str, str, str]:
    return result.dataset, result.model, result.method


def _flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text[:8] if len(text) == 64 else text


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
