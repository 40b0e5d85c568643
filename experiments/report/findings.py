"""The head of the page: what was compared, and what the statistics say of it, in sentences and in plots."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.command.configuration import choices
from experiments.command.program import composed
from experiments.figures.drawing import critical_difference, plane, styled
from experiments.figures.forest import forest
from experiments.figures.inline import inline
from experiments.report.tables import revision
from experiments.store.reading import BASELINE, CONTROL, Result
from experiments.tables.columns import LEVEL, Block, blocks
from experiments.tables.comparisons import Comparison
from experiments.tables.differences import Difference
from experiments.tables.text import FEWEST, bounds

# The measures of which the head speaks, those first that sum up others; what an earlier one sums up is not repeated.
_SPOKEN = (
    ("overall", ("deletion", "insertion")),
    ("necessity_sufficiency", ("necessity", "sufficiency")),
    ("pair_accuracy", ("auroc_n", "auroc_s", "auroc")),
    ("energy_proportion", ("pointing_game", "max_box_acc", "max_box_acc_v2", "iou")),
    ("deletion", ()),
    ("insertion", ()),
    ("necessity", ()),
    ("sufficiency", ()),
    ("auroc_n", ()),
    ("auroc_s", ()),
)
_SENTENCES = 3
_NAMED = 4  # methods that a sentence names, and then says how many more there are
_LINES = 12  # methods of a panel


@dataclass(frozen=True)
class Finding:
    """The head of one block.

    Args:
        title: data and network.
        facts: what was compared, by what it is.
        sentences: what the statistics say; the first ones alone where there are many.
        plots: SVG elements.
    """

    title: str
    facts: Mapping[str, str]
    sentences: Sequence[str]
    plots: Sequence[str]


def findings(results: Sequence[Result], compared: Sequence[Comparison]) -> list[Finding]:
    """The head of each block, those with the most methods first.

    Args:
        results: cells.
        compared: their comparisons.
    """
    found: list[tuple[int, Finding]] = []
    for block in blocks(results, list(dict.fromkeys(m for r in results for m in r.measures))):
        own = [c for c in compared if (c.block.dataset, c.block.model, c.block.protocol) == _key(block)]
        chosen = _spoken(own)
        sentences = [sentence(c) for c in chosen] or ["Fewer than two methods have a number here: there is nothing to compare."]
        found.append((len(block.rows), Finding(block.title, _facts(block), sentences, _plots(block, chosen, len(found)))))
    return [f for _, f in sorted(found, key=lambda f: -f[0])]


def _key(block: Block) -> tuple[Any, ...]:
    return block.dataset, block.model, block.protocol


def _spoken(compared: Sequence[Comparison]) -> list[Comparison]:
    chosen: list[Comparison] = []
    repeated: set[str] = set()
    for name, parts in _SPOKEN:
        here = [c for c in compared if c.column.measure.name == name and name not in repeated]
        if here:
            chosen.append(max(here, key=lambda c: len(c.ranked)))  # of several protocols the one that most methods have
            repeated |= {name, *parts}
    return chosen[:_SENTENCES]


def sentence(c: Comparison) -> str:
    """What one column's differences to its reference say, and no more than the intervals carry.

    A method is ahead or behind where p, adjusted over the methods, is below .05 and the interval leaves out 0; all others are
    ties.
    """
    lines, title = c.lines(), c.column.title
    n = max(line.entry["n"] for line in lines)
    kind = {BASELINE: "the best baseline", CONTROL: "the best control"}.get(c.column.cells[c.reference].family, "")
    reference = f"{c.reference}, {kind}," if kind else c.reference
    # the smallest p that so many images can give, adjusted over the methods
    if n < FEWEST or len(lines) * 2.0 ** (1 - n) >= LEVEL:
        return f"{title}: {n} images are too few to tell {len(lines) + 1} methods apart."
    sign = 1 if c.column.measure.higher_is_better else -1
    groups: dict[str, list[Difference]] = {"ahead": [], "tied": [], "behind": []}
    for line in lines:
        groups[_side(line, sign)].append(line)
    parts = []
    if groups["ahead"]:
        parts.append(f"{_listed([_with_number(d) for d in groups['ahead']], groups['ahead'])} ahead of {reference.rstrip(',')}")
    if groups["tied"]:
        who = "it" if parts else reference.rstrip(",")
        parts.append(f"{_names([d.label for d in groups['tied']])} can't be told apart from {who}")
    if groups["behind"]:
        who = "it" if parts else reference.rstrip(",")
        parts.append(f"{_listed([_with_number(d) for d in groups['behind']], groups['behind'])} behind {who}")
    return f"{title}: {'; '.join(parts)} ({n} images)."


def _side(line: Difference, sign: int) -> str:
    low, high = line.limits
    if line.p is None or line.p >= LEVEL or low is None or high is None or low <= 0 <= high:
        return "tied"
    return "ahead" if sign * line.entry["mean"] > 0 else "behind"


def _with_number(line: Difference) -> str:
    return f"{line.label} (by {abs(line.entry['mean']):.3f} {bounds(_turned(line))})"


def _turned(line: Difference) -> dict[str, Any]:
    """The interval of the difference's size."""
    low, high = line.limits
    assert low is not None
    assert high is not None
    return {"n": line.entry["n"], "ci95": sorted((abs(low), abs(high)))}


def _listed(texts: Sequence[str], lines: Sequence[Difference]) -> str:
    return f"{_names(texts)} {'is' if len(lines) == 1 else 'are'}"


def _names(texts: Sequence[str]) -> str:
    if len(texts) > _NAMED + 1:
        return f"{', '.join(texts[:_NAMED])} and {len(texts) - _NAMED} more"
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _facts(block: Block) -> dict[str, str]:
    counts = sorted({len(c.records) for c in block.cells})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    layers = dict.fromkeys(str(c.protocol["target_layer"]) for c in block.cells)
    revisions = sorted({revision(c) for c in block.cells})
    more = "; * with changed files" if any(r.endswith("*") for r in revisions) else ""
    return {
        "Data": f"{block.dataset}, {images} images",
        "Network": f"{block.model}, layer {', '.join(layers)}; explained class: {block.protocol['explained_class']}",
        "Methods": f"{len(block.rows)}: {', '.join(block.rows)}",
        "Code": f"revision {', '.join(revisions)}{more}",
        "Command": command(block),
    }


def command(block: Block) -> str:
    """The command that computes a block's cells, from their cards."""
    cell = block.cells[0]
    usual = composed([f"dataset={block.dataset}"]) if block.dataset in choices("dataset") else None
    methods = dict.fromkeys(c.method for c in block.cells)
    settings = [c for c in block.cells if c.settings]
    metrics = [name for name, m in cell.measures.items() if m.metric]
    words = [
        "python run.py -m" if len(methods) > 1 else "python run.py",
        f"method={','.join(methods)}",
        f"dataset={block.dataset}",
        f"model={block.model}",
        f"metrics=[{','.join(metrics)}]",
    ]
    configuration = cell.configuration
    for key, value in (configuration["dataset"] or {}).items():
        if usual is not None and key not in ("root", "_target_", "name") and usual.dataset.get(key) != value:
            words.append(f"dataset.{key}={value}")
    for key in ("seed", "precision", "target", "points", "maps", "curves"):
        if usual is not None and key in configuration and usual.get(key) != configuration[key]:
            words.append(f"{key}={str(configuration[key]).lower()}")
    text = " ".join(word if " " in word and word.startswith("python") else shlex.quote(word) for word in words)
    return f"{text}  (settings of {len(settings)} methods: see their names)" if settings else text


def _plots(block: Block, chosen: Sequence[Comparison], at: int) -> list[str]:
    """The forest of the spoken differences; the plane of N and S, or else average ranks."""
    drawn = []
    with styled():
        one = len({c.reference for c in chosen}) == 1
        lines = [line for c in chosen for line in _lines(c, one)]
        if lines:
            versus = chosen[0].reference if one else ""
            figure = forest(lines, title="differences with 95% intervals, image by image", versus=versus)
            drawn.append(inline(figure, f"forest-{at}", f"Differences of the methods to {versus or 'the reference'}"))
        names = {c.measure.name for c in block.columns}
        ranked = next((c for c in chosen if c.ranks), None)
        if {"necessity", "sufficiency"} <= names:
            drawn.append(inline(plane(block), f"plane-{at}", "Necessity and sufficiency of each image by method"))
        elif ranked:
            drawn.append(inline(critical_difference(ranked), f"ranks-{at}", f"Average ranks in {ranked.column.title}"))
    return drawn


def _lines(c: Comparison, one_reference: bool) -> list[Difference]:
    lines = c.lines()[:_LINES]
    return lines if one_reference else [replace(line, label=f"{line.label} - {c.reference}") for line in lines]
