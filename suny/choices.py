"""The methods and metrics that the command line knows, for Python: their names and settings are those of ``conf``.

The files are read here without Hydra: it keeps one state for each process, which belongs to the user's program if that uses
Hydra too. Of Hydra's language the files of these two groups need only ``defaults`` and the keys of ``conf/config.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from suny.configured import make_target, target_class
from suny.errors import UserError, nearest
from suny.explanation import Explainer, family_of

if TYPE_CHECKING:
    import pandas as pd

    from metrics.base import Metric

CONF = Path(__file__).resolve().parents[1] / "conf"


def method(name: str, seed: int = 0, **settings: Any) -> Explainer:
    """The explainer of ``method=name``.

    Args:
        name: of a file in ``conf/method``.
        seed: of the run.
        **settings: keys of that file that are to have another value.

    Raises:
        UserError: an unknown name, an unknown or wrong setting.
    """
    if name == "precomputed":
        raise UserError("method='precomputed' explains nothing: suny.score takes maps that are made already.")
    node = _read("method", name, seed)
    return make_target({**node, **settings}, "", Explainer)


def metric_choice(name: str, points: int | None = None, seed: int = 0) -> dict[str, Metric]:
    """The metrics of ``metrics=name``, by name: one, or those of a list such as ``default``.

    Args:
        name: of a file in ``conf/metrics``, or of a metric in one.
        points: of the deletion and insertion curves; None: as the command line has it.
        seed: of the run.

    Raises:
        UserError: an unknown name, or points that are none.
    """
    from metrics.base import Metric  # not above: the metrics are a package over this one

    known = {} if name in _names("metrics") else _metric_files()
    node = _read("metrics", known.get(name, name), seed, points)
    chosen = {name: node[name]} if name in known else node
    return {key: make_target(one, f"metrics.{key}", Metric) for key, one in chosen.items()}


def methods() -> pd.DataFrame:
    """The methods that :func:`suny.explain` takes, with what they cost.

    Returns: a row for each, by name: ``family`` (own, baseline, control), ``maps`` (``N and S``, or ``one``), ``cost`` for each
        image and ``reference``, what it is and who published it.

    >>> import suny
    >>> print(suny.methods().loc["gradcam", "cost"])
    1 forward, 1 backward of the tail
    """
    import pandas as pd

    rows = {}
    for name in _names("method"):
        cls = target_class(_read("method", name), name)
        said, cost = _header(CONF / "method" / f"{name}.yaml")
        maps = "N and S" if getattr(cls, "two_sided", False) else "one"
        rows[name] = {"family": family_of(cls), "maps": maps, "cost": cost, "reference": said}
    return _table(pd.DataFrame.from_dict(rows, orient="index"), "method")


def metrics() -> pd.DataFrame:
    """The metrics that :func:`suny.score` takes, with what they cost.

    Returns: a row for each, by name: ``better`` (higher, lower or neither), ``low`` and ``high`` (its range), ``unit``,
        ``needs`` (what must be given beside a map), ``cost`` for each image and ``reference``.

    >>> import suny
    >>> print(suny.metrics().loc["deletion", "better"])
    lower
    """
    import pandas as pd

    rows = {}
    for name, file in _metric_files().items():
        metric = metric_choice(name)[name]
        better = {True: "higher", False: "lower", None: "neither"}[metric.higher_is_better]
        rows[name] = {
            "better": better, "low": metric.low, "high": metric.high, "unit": metric.unit,
            "needs": ", ".join(sorted(metric.needs)), "cost": _header(CONF / "metrics" / f"{file}.yaml")[1],
            "reference": metric.reference,
        }  # fmt: skip
    return _table(pd.DataFrame.from_dict(rows, orient="index"), "metric")


def _table(frame: pd.DataFrame, index: str) -> pd.DataFrame:
    return frame.sort_index().rename_axis(index)


@cache
def _names(group: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


@cache
def _metric_files() -> dict[str, str]:
    """The file of each metric; of several files the one that has its name, or else one that is no list of other files."""
    found: dict[str, str] = {}
    for file in _names("metrics"):
        node = OmegaConf.load(CONF / "metrics" / f"{file}.yaml")
        if "_target_" in node:
            found[file] = file
        elif "defaults" not in node:
            found |= {str(name): file for name in node if name not in _names("metrics") or name == file}
    return found


def _header(path: Path) -> tuple[str, str]:
    """What a file's first comment says of the choice, and of its cost."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    said, _, cost = " ".join(lines).partition("Cost")
    said = said.partition("Parameters:")[0].strip()
    return said, cost.removeprefix(":").strip().removesuffix(".")


def _read(group: str, name: str, seed: int = 0, points: int | None = None) -> dict[str, Any]:
    """A file of a group, with what it inherits, resolved."""
    values = {"seed": seed, "points": _usual_points() if points is None else points}
    node = OmegaConf.create({**values, group: _inherited(group, name)})
    resolved: Any = OmegaConf.to_container(node, resolve=True)
    return resolved[group]


@cache
def _usual_points() -> int:
    return OmegaConf.load(CONF / "config.yaml").points


@cache
def _inherited(group: str, name: str) -> DictConfig:
    """A file over those that its ``defaults`` name."""
    path = CONF / group / f"{name}.yaml"
    if not re.fullmatch(r"\w+(/\w+)?", str(name)) or not path.is_file():
        known = [*_names(group), *(_metric_files() if group == "metrics" else ())]
        raise UserError(f"{group}={name} is unknown. {nearest(str(name), known)}suny.{_LISTS[group]}() lists them.")
    own = OmegaConf.load(path)
    assert isinstance(own, DictConfig)
    if group == "metrics" and "_target_" in own:
        own = OmegaConf.create({path.stem: own})  # as the command line reads it
    bases = [base for base in own.pop("defaults", []) if base != "_self_"]  # which stands last in every file
    parent = f"{group}/{name}".rpartition("/")[0]
    merged: Any = OmegaConf.create({})
    for base in bases:
        base = base.removesuffix("@_here_")
        full = base.removeprefix("/") if base.startswith("/") else f"{parent}/{base}"
        merged = OmegaConf.merge(merged, _inherited(*full.split("/", 1)))
    return OmegaConf.merge(merged, own)  # type: ignore[return-value]


_LISTS: Mapping[str, str] = {"method": "methods", "metrics": "metrics"}
