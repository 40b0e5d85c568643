"""Makes objects from Hydra's configuration; every mistake is told in one line.

Each group's conf file names its class in ``_target_``; the other keys are that class's fields. Classes validate their
fields strictly (:mod:`suny.configured`), so the conf file needs no schema beside the class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field

from experiments.command import data_folders
from experiments.command.folders import CONF as CONF
from experiments.command.folders import choices as choices
from experiments.command.folders import conf_file, conf_folders, read_conf_files_here
from experiments.command.options import dashed
from suny.classifiers.torchvision_names import names
from suny.configured import Seed, configured, make, make_target, place_of
from suny.errors import UserError, nearest

if TYPE_CHECKING:
    from metrics.base import Metric
    from suny.classifiers.classifier import Model
    from suny.explanation import Explainer
    from suny.images.dataset import Dataset
    from suny.images.filecache import FileCache

# The names of data sets, networks and methods, after which folders and files are named.
NAME = re.compile(r"\w[\w.-]*")

# The folders in conf of groups that Hydra names otherwise.
_FOLDERS = {"hydra/launcher": "launchers"}

_GROUPS = ("dataset", "model", "method", "metrics", "experiment")


@configured
class Settings:
    """The keys at the top of ``conf/config.yaml``."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["float32", "bf16"]
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None
    target: Literal["predicted", "label"]
    points: Annotated[int, Field(ge=2)]
    results_dir: str
    pictures: Annotated[int, Field(ge=0)]
    maps: bool
    curves: bool
    # these have defaults, for cards of earlier versions lack them
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] = 1
    dry_run: bool = False
    debug: bool = False


@configured
class Shard:
    """The keys ``shard`` of ``conf/config.yaml``: which of a cell's images are computed.

    Args:
        count: into how many shards the cell is split; 1: not at all.
        index: which of them, 0..count - 1.
    """

    count: Annotated[int, Field(ge=1, le=99999)] = 1
    index: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.index is None and self.count > 1:
            raise ValueError(f"give shard.index=0..{self.count - 1} for one of them, or shards={self.count} for all")
        if self.index is not None and self.index >= self.count:
            raise ValueError(f"index={self.index} is none of 0..{self.count - 1}")

    @property
    def whole(self) -> bool:
        return self.count == 1

    @property
    def name(self) -> str:
        return f"{self.index or 0:05d}-of-{self.count:05d}"

    def has(self, place: int) -> bool:
        """Whether the image at a place of the cell's list belongs to this shard."""
        return place % self.count == (self.index or 0)


@dataclass(frozen=True)
class Run:
    """One cell or shard to compute: all objects, and the resolved configuration they came from, without the shard and the
    folder of caches, which change no number."""

    settings: Settings
    dataset: Dataset
    model: Model
    explainer: Explainer
    metrics: dict[str, Metric]
    resolved: dict[str, Any]
    shard: Shard
    cache: FileCache


def register_torchvision(arguments: Sequence[str]) -> None:
    """Makes ``model=NAME`` work for every torchvision classifier that has no conf file of its own.

    Only classifiers that the arguments name are registered, for Hydra copies every registered node many times over.
    """
    asked = {name for a in arguments if a.startswith("model=") for name in re.findall(r"\w+", a.removeprefix("model="))}
    other = {name for name in asked if not conf_file("model", name)}
    for name in sorted(other.intersection(names())) if other else ():
        template = yaml.safe_load((CONF / "model" / "resnet50.yaml").read_text(encoding="utf-8"))
        node = {**template, "name": name, "arch": name, "weights_version": None}
        ConfigStore.instance().store(group="model", name=name, node=node)


def register_on_request(arguments: Sequence[str]) -> None:
    """Makes the choices in ``conf/on_request`` known where an argument names them.

    They need a key that only the user can give, so that they are no part of ``glob(*)``.
    """
    for path in sorted((CONF / "on_request").glob("*/*.yaml")):
        group, name = path.parent.name, path.stem
        if any(a.startswith(f"{group}=") and name in re.findall(r"\w+", a) for a in arguments):
            ConfigStore.instance().store(group=group, name=name, node=yaml.safe_load(path.read_text(encoding="utf-8")))


def register_launchers() -> None:
    """Puts this project's launchers behind the names under which Hydra's plugins have theirs (``conf/launchers``)."""
    read_conf_files_here()
    Plugins.instance()  # finds the plugins, which then register their own
    for path in sorted((CONF / "launchers").glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        ConfigStore.instance().store(group="hydra/launcher", name=path.stem, node=node)


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration with its references filled in.

    Raises:
        UserError: a reference to nothing, or a key that only the user can give and has not.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing: give {error.full_key}=VALUE.") from error
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {error}") from error


def read(cfg: DictConfig) -> Run:
    """Objects from a composed configuration.

    Raises:
        UserError: an unknown key or a wrong type or value.
    """
    resolved = resolve(cfg)
    shard = resolved.pop("shard", None) or {}
    if not isinstance(shard, Mapping):
        raise UserError(f"shard={shard}: give shards=N for N shards, or shard.count=N shard.index=I for one of them.")
    caches = resolved.pop("caches", None)
    groups = {g: resolved.get(g) for g in _GROUPS}
    top = {k: v for k, v in resolved.items() if k not in _GROUPS}
    settings = make(Settings, top, "")
    for group in ("dataset", "model", "method"):  # they name folders
        name = str((groups[group] or {}).get("name", ""))
        if not NAME.fullmatch(name):
            raise UserError(f"{group}.name={name}: use letters, digits, '_', '-' and '.' only.")
    if not groups["metrics"]:
        raise UserError("metrics: choose at least one metric, e.g. metrics=default.")
    if "_target_" in groups["metrics"]:
        raise UserError(
            "metrics._target_ stands beside metrics, not in one: in a file of the folder metrics it may stand at the top "
            "(without '# @package' and defaults), or below the metric's name; on the command line write metrics.NAME._target_."
        )
    from suny.classifiers.classifier import Model  # not above: these need torch, and the mistakes so far are told without it
    from suny.explanation import Explainer
    from suny.images.dataset import Dataset

    dataset = make_target(groups["dataset"], "dataset", Dataset)
    data_folders.declare_configured(groups["dataset"] or {})
    return Run(
        settings=settings,
        dataset=dataset,
        model=make_target(groups["model"], "model", Model),
        explainer=make_target(groups["method"], "method", Explainer),
        metrics={name: make_metric(name, node) for name, node in groups["metrics"].items()},
        resolved=resolved,
        shard=make(Shard, shard, "shard"),
        cache=file_cache(dataset, caches, writes=not settings.dry_run),
    )


def make_metric(name: str, node: Any) -> Metric:
    """The metric that a configuration node describes.

    Raises:
        UserError: it breaks the contract of metrics, or calls itself otherwise than its file or key does.
    """
    from metrics.base import Metric, check_metric

    metric: Metric = make_target(node, f"metrics.{name}", Metric)
    check_metric(metric)
    if metric.name != name:
        raise UserError(
            f"metrics.{name}: {place_of(type(metric))} has the name '{metric.name}': give both one name, or, for several "
            "settings of one metric, give the class a field 'name' and set it in the file."
        )
    return metric


def file_cache(dataset: Dataset, caches: Any, writes: bool = True) -> FileCache:
    """The cache of what is derived from a data set's files, below the folder ``caches``; None: nothing is kept.

    Raises:
        UserError: ``caches`` is no folder's name.
    """
    from suny.images.filecache import FileCache

    if not isinstance(caches, str | None):
        raise UserError(f"caches={caches}: give a folder, or null to keep nothing.")
    if caches:
        data_folders.refuse(caches, "caches")
    return FileCache(Path(caches).expanduser() if caches else None, dataset.root or dataset.name, writes)


def explain_hydra(error: HydraException | OmegaConfBaseException, keys: Sequence[str]) -> UserError:
    """Hydra's complaint as one line with the nearest valid name.

    Args:
        error: what Hydra raised.
        keys: all dotted keys of the default configuration.
    """
    text = str(error)
    missing = re.search(r"Could not (?:find|load) '([\w/]+)/(.*?)'", text)
    if isinstance(error, MissingConfigException) and missing and _is_group(_FOLDERS.get(missing[1], missing[1])):
        group, name = missing[1], missing[2]
        files = choices(_FOLDERS.get(group, group))
        more = [p.stem for p in sorted((CONF / "on_request" / group).glob("*.yaml"))]
        others = f", {', '.join(more)}" if more else ""
        if group == "model":
            more, others = [*more, *names()], f"{others} and every torchvision classifier"
        if group == "hydra/launcher":
            files.append("basic")  # Hydra's own
        return UserError(f"{group}={name} is unknown. {nearest(name, [*files, *more])}Valid: {', '.join(files)}{others}.")
    if isinstance(error, OverrideParseException):
        if str(error.override).startswith("-"):
            return dashed(str(error.override), [])
        key, sign, value = str(error.override).partition("=")
        exact = f"""write '{key}="{value}"', with both kinds of quotes""" if sign else "write key=value"
        return UserError(f"cannot read the argument {error.override}: {exact}.")
    if again := re.match(r"Multiple values for (\w+)\..*'override \1: (.*)'", text):
        both = f", or {again[1]}=[default,{again[2]}] for both" if again[1] == "metrics" else ""
        return UserError(f"{again[1]} has a choice already: write {again[1]}={again[2]}{both}.")
    refused = re.search(r"(?:Could not override|Key) '([^']+)'", text)
    if isinstance(error, ConfigCompositionException) and refused:
        cause = str(error.__cause__ or "")
        if "is not in struct" in cause or "append" in text:
            siblings = [k for k in keys if k.count(".") == refused[1].count(".")] or list(keys)
            return UserError(f"unknown key {refused[1]}. {nearest(refused[1], siblings)}--help lists the keys.")
        text = f"{text} {cause}"
    return UserError(" ".join(text.split())[:400])


def _is_group(group: str) -> bool:
    return any((folder / group).is_dir() for folder in conf_folders())


def dotted_keys(node: Any, prefix: str = "") -> list[str]:
    """All keys of a configuration, groups included, as dotted names."""
    if not isinstance(node, Mapping):
        return []
    return [k for name, child in node.items() for k in (f"{prefix}{name}", *dotted_keys(child, f"{prefix}{name}."))]
