"""The annotated parts that the maps of the cases hit, counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from experiments.failures.cases import MAPS
from experiments.store.records import Record
from experiments.tables.text import interval
from metrics.localization import PartHits
from metrics.statistics import mean_interval
from suny.later import Later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")


def part_table(records: Sequence[Record]) -> pd.DataFrame:
    """For each part, on how many images it is visible and on how many each map hits it."""
    names = sorted({part for r in records for part in r["visible"]})
    rows = []
    for part in names:
        seen = [r for r in records if part in r["visible"]]
        hits = {key: sum(part in r["maps"][key]["hit"] for r in seen) for key in MAPS}
        rows.append({"part": part, "visible": len(seen), **hits})
    return pd.DataFrame(rows)


def part_text(table: pd.DataFrame, records: Sequence[Record]) -> str:
    """The table for the terminal, with the mean share of an image's parts that each map hits."""
    rows = [list(row) for row in table.itertuples(index=False)]
    with_parts = [r for r in records if r["visible"]]
    shares = []
    for key in MAPS:
        entry = mean_interval([len(r["maps"][key]["hit"]) / len(r["visible"]) for r in with_parts])
        shares.append(interval(entry))
    rows.append(["share of an image's parts", len(with_parts), *shares])
    text = tabulate(rows, ["part", "visible", *MAPS.values()], tablefmt="github", disable_numparse=True)
    q = PartHits().q
    return f"{text}\n\nimages on which the part lies in the {q:g} % most salient pixels of the map (by chance: {q:g} %)"
