"""Writes the pages that are made from code and results: ``python docs/generate.py`` writes docs/keys.md and docs/sheets.md."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

import suny
from experiments.command.configuration import CONF
from experiments.store.reading import Result, compare, read_results
from experiments.tables.text import interval, p_value
from suny.configured import target_class

DOCS = Path(__file__).resolve().parent
REFERENCE = DOCS.parent / "results" / "reference"

# The groups of keys that have a class behind each choice, and what stands above their tables.
GROUPS = {
    "dataset": "Data sets",
    "model": "Networks",
    "method": "Methods",
    "metrics": "Metrics",
}


def main() -> None:
    """Writes both pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each generated page, by file name."""
    return {"keys.md": keys_page(), "sheets.md": sheets_page(read_results(REFERENCE))}


# docs/keys.md


def keys_page() -> str:
    """All configuration keys: those of the command from the comments in conf/config.yaml, the others from their classes."""
    head = ["key", "type", "default", "meaning"]
    parts = [
        "# Configuration keys",
        "What `python run.py` takes, as `key=value`. Made by `python docs/generate.py` from the comments of `conf/config.yaml` "
        "and from the classes that the files in `conf` configure.",
        "## Of every run",
        table(["key", "default", "meaning"], top_keys((CONF / "config.yaml").read_text(encoding="utf-8"))),
    ]
    for group, heading in GROUPS.items():
        found = list(classes(group))
        shared = [row for row in found[0][2] if all(row in rows for _, _, rows in found)]
        parts.append(f"## {heading}")
        if shared:
            parts.append(f"All of them take:\n\n{table(head, shared)}")
        for cls, names, rows in found:
            own = [row for row in rows if row not in shared]
            parts.append(
                f"### {', '.join(f'`{name}`' for name in names)}\n\n`{cls.__module__}.{cls.__name__}`: {_first_sentence(cls)}"
            )
            parts += [table(head, own)] if own else []
    return "\n\n".join(parts) + "\n"


def top_keys(text: str) -> Iterator[list[str]]:
    """The keys of a configuration file with the comments above them, nested ones with a dot.

    >>> list(top_keys("# how many\\nshard:\\n  # into how many parts\\n  count: 1\\n\\nhydra:\\n  run: null\\n"))
    [['`shard.count`', '`1`', 'into how many parts']]
    """
    comment: list[str] = []
    parent = ""
    for line in text.partition("\nhydra:")[0].splitlines():
        match = re.fullmatch(r"( *)([a-z_]+):(.*)", line)
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
        elif match:
            indent, key, value = match.groups()
            parent = key if not indent else parent
            if value.strip():
                yield [f"`{parent}.{key}`" if indent else f"`{key}`", f"`{value.strip()}`", _escaped(" ".join(comment))]
            comment = []
        else:
            comment = []


def classes(group: str) -> Iterator[tuple[type, list[str], list[list[str]]]]:
    """The classes of a group, with the choices that configure each, and a row per key."""
    found: dict[type, dict[str, Mapping[str, Any]]] = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        nodes = {path.stem: node} if "_target_" in node else {str(k): v for k, v in node.items() if isinstance(v, dict)}
        for name, one in nodes.items():
            if "_target_" in one:
                found.setdefault(target_class(one, name), {})[name] = one
    for cls, choices in found.items():
        yield cls, list(choices), _rows(cls, choices)


def _rows(cls: type, choices: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    meaning = documented_fields(cls)
    rows = []
    for field in dataclasses.fields(cls):
        if field.name == "name":
            continue
        default = "required" if field.default is dataclasses.MISSING else f"`{_plain(field.default)}`"
        others = {_plain(n[field.name]): c for c, n in choices.items() if field.name in n}
        others = {v: c for v, c in others.items() if "${" not in v and f"`{v}`" != default}
        if default == "required" and len(others) == 1:
            default, others = f"`{next(iter(others))}`", {}
        if others:
            default += "; " + ", ".join(f"{c}: `{v}`" for v, c in others.items())
        rows.append([f"`{field.name}`", f"`{_type(field.type)}`", default, _escaped(meaning.get(field.name, ""))])
    return rows


def documented_fields(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each field, below ``Args:``.

    >>> class Blur:
    ...     '''A blur.
    ...
    ...     Args:
    ...         sigma: standard deviation,
    ...             in pixels.
    ...         low, high: range.
    ...     '''
    >>> documented_fields(Blur)
    {'sigma': 'standard deviation, in pixels.', 'low': 'range.', 'high': 'range.'}
    """
    found: dict[str, str] = {}
    for base in cls.__mro__:
        block = re.search(r"^Args:\n((?: .*\n?|\n)*)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        entries = re.findall(r"^([\w, ]+): ((?:.*)(?:\n[ ]+.*)*)", textwrap.dedent(block[1]) if block else "", re.MULTILINE)
        for names, text in entries:
            for name in names.split(", "):
                found.setdefault(name, " ".join(text.split()))
    return found


def _first_sentence(cls: type) -> str:
    first = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
    return _escaped(" ".join(first.split()))


def _type(annotation: Any) -> str:
    """A field's type without what only its validation reads.

    >>> _type("Annotated[int, Field(ge=1)] | None")
    'int or None'
    """
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = re.sub(r"Annotated\[(.*?), Field\(.*?\)\]", r"\1", text).replace("Literal", "")
    return text.replace(" | ", " or ").replace("[", "").replace("]", "").replace('"', "").replace("'", "")


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    """Text for a cell of a Markdown table: no bars, and the roles of docstrings as code."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return re.sub(r"<(?=\w)", "&lt;", text.replace("``", "`").replace("|", "\\|"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns not padded: some cells are long.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    first, *others = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([first, "|---" * len(head) + "|", *others])


# docs/sheets.md


def sheets_page(results: Sequence[Result]) -> str:
    """A data sheet per method: what it claims and where it fails (docs/sheets.yaml), its cost, and what was measured here."""
    facts = yaml.safe_load((DOCS / "sheets.yaml").read_text(encoding="utf-8"))
    known = suny.methods()
    missing = set(known.index) ^ set(facts)
    if missing:
        raise SystemExit(f"docs/sheets.yaml and conf/method differ in {', '.join(sorted(missing))}.")
    parts = [
        "# A data sheet per method",
        "What a method claims, what it costs, what is random about it, where it is known to fail, and what was measured here. "
        "Made by `python docs/generate.py` from `conf/method`, `docs/sheets.yaml` and the cells in `results/reference`; "
        "the metrics are explained in [metrics.md](metrics.md). Intervals are of 95%.",
    ]
    parts += [_sheet(name, known.loc[name], facts[name], results) for name in facts]
    return "\n\n".join(parts) + "\n"


def _sheet(name: str, known: Mapping[str, Any], facts: Mapping[str, Any], results: Sequence[Result]) -> str:
    rows = [
        ["source", _escaped(known["reference"])],
        ["family, maps", f"{known['family']}, {known['maps']}"],
        ["claims", _escaped(facts["claims"])],
        ["cost per image", known["cost"] or "none"],
        ["randomness", facts["random"]],
        ["known failures", "<br>".join(_escaped(f) for f in facts["fails"])],
        *measured(name, results),
    ]
    return f"## `{name}`\n\n{table(['', ''], rows)}"


def measured(name: str, results: Sequence[Result]) -> Iterator[list[str]]:
    """The rows of a method's sheet that stand on reference cells: known causes, sanity check, controls."""
    causal = _cell(results, "causal_shapes", name)
    texts = {
        "auroc_n": "AUROC N",
        "auroc_s": "AUROC S",
        "pair_accuracy": "pair accuracy",
        "calibration_error": "calibration error",
    }
    yield ["known causes", _entries(causal, texts) or "not measured"]
    randomised = _cell(results, "demo", name, "sanity")
    yield ["sanity check", _entries(randomised, {"sanity": "similarity after randomisation of the network"}) or "not measured"]
    photographs = _cell(results, "ilsvrc2012", name, "overall")
    for control in ("center", "random"):
        other = _cell(results, "ilsvrc2012", control, "overall")
        if photographs is None or other is None or control == name:
            continue
        entry = compare(photographs, other, "overall")
        if entry is not None:
            yield [f"overall minus `{control}`'s", f"{interval(entry)}, n = {entry['n']}, p {p_value(entry['p'])} (ILSVRC2012)"]


def _cell(results: Sequence[Result], dataset: str, method: str, measure: str = "") -> Result | None:
    """The cell of a method's usual settings on a data set, the one with the most images."""
    cells = [
        r for r in results if (r.dataset, r.row) == (dataset, method) and r.complete and (not measure or measure in r.measures)
    ]
    return max(cells, key=lambda r: r.count, default=None)


def _entries(cell: Result | None, texts: Mapping[str, str]) -> str:
    if cell is None:
        return ""
    named = [f"{text} {interval(cell.entry(name))}" for name, text in texts.items() if name in cell.measures]
    return ", ".join(named) + f" (n = {cell.count})" if named else ""


if __name__ == "__main__":
    main()
