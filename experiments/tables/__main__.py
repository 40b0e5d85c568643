"""Rebuilds all tables from cards and records: ``python -m experiments.tables [results_dir=DIR] [out=DIR] [--check]``.

results_dir=DIR   every cell below it, at any depth; default: results/runs
out=DIR           where the tables go; default: the folder tables in results_dir
--check           writes nothing; exit code 1 where a table differs from what the records give
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command.program import EXIT_DEFECT, EXIT_OK, guarded, pairs
from experiments.store.reading import read_results
from experiments.store.records import write_atomically, writing
from experiments.studies import search
from experiments.tables import build

_FILES = (*build.FILES, *search.FILES)


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    keys = pairs([a for a in arguments if a != "--check"], {"results_dir": "results/runs", "out": ""})
    source = Path(keys["results_dir"]).expanduser()
    out = Path(keys["out"]).expanduser() if keys["out"] else source / "tables"
    results = read_results(source)
    files = build.build(results, out) | search.build(results)
    if "--check" in arguments:
        return _check(files, out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomically(out / name, text.encode())
        for name in set(_FILES) - set(files):
            (out / name).unlink(missing_ok=True)
    print("\n".join(str(out / name) for name in files))
    return EXIT_OK


def _check(files: dict[str, str], out: Path) -> int:
    """Says of every table that is not as the records give it what is other."""
    wrong = []
    for name in _FILES:
        path, text = out / name, files.get(name)
        there = path.read_text(encoding="utf-8") if path.exists() else None
        if there == text:
            continue
        if text is None:
            wrong.append(f"{path}: no records give it")
        elif there is None:
            wrong.append(f"{path}: is not there")
        else:
            pairs = itertools.zip_longest(there.splitlines(), text.splitlines())
            other = ((at, old, new) for at, (old, new) in enumerate(pairs, 1) if old != new)
            line, old, new = next(other, (0, "", ""))  # or the ends of the lines are other
            wrong.append(f"{path}, line {line}: is {old!r}, the records give {new!r}")
    for text in wrong:
        print(f"error: {text}", file=sys.stderr)
    if not wrong:
        print(f"{len(files)} tables in {out} are as the records give them")
    return EXIT_DEFECT if wrong else EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
