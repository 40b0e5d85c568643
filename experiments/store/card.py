"""The card of a cell: what the cell is, which columns it has, and what else a reader needs to know.

A cell is data, network, method and seed: these are its *identity*, whose hash names its folder. Classes stand in it with
their registered names and all their settings, never with the place where their code lies. A metric is no part of it, but a
*column* of the cell, with a fingerprint of its own settings and version: what is missing can be measured later, and two
settings of one metric are two columns of the same cell.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pkgutil
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import metrics
from experiments.command.configuration import Run
from experiments.command.folders import CONF, conf_file
from experiments.command.program import composed
from experiments.command.progress import tell
from experiments.store.records import FORMAT, CellFolder
from metrics.base import Metric
from suny.classifiers.classifier import Classifier, weights_digest
from suny.classifiers.engine import default_batch_size
from suny.configured import imported, make, make_target, registered, target_class
from suny.errors import UserError
from suny.explanation import Explainer, Family, StoredMaps, family_of
from suny.images.dataset import ImageList

_PACKAGES = (
    "suny-benchmark", "torch", "torchvision", "numpy", "scipy", "pillow", "grad-cam", "captum", "scikit-image",
    "scikit-learn", "opencv-python-headless", "hydra-core", "omegaconf", "pandas",
)  # fmt: skip

# The parts of a configuration that are no part of a cell's identity: they change no number, or stand there as what came of
# them.
_PLACES = {"dataset": ("root", "strict"), "model": ("checkpoint", "output", "reshape"), "method": ()}

# The parts of a cell's identity that its settings do not decide: where they alone differ, the user is told.
_FOUND = ("images", "weights", "factory", "preprocessing", "target_layer", "reshape", "output", "options", "batch_size", "maps")


def make_card(run: Run, images: ImageList, classifier: Classifier, device: torch.device) -> dict[str, Any]:
    """The card of a cell that has no column yet."""
    identity = identity_of(run, images, classifier, device)
    return {
        "hash": digest_of_identity(identity),
        "format": FORMAT,
        "identity": identity,
        "family": method_family(run.explainer),
        **_shown(run),
        "columns": {},
        "batch_size": identity["batch_size"],
        "configuration": run.resolved,
        "code": {k: v for made in (run.explainer, *run.metrics.values()) for k, v in source_of(type(made)).items()},
        **environment(device, run.model.packages),
    }


def identity_of(run: Run, images: ImageList, classifier: Classifier, device: torch.device) -> dict[str, Any]:
    """The identity of a cell: everything that its explanations depend on."""
    settings, side = run.settings, classifier.view.crop
    stored = run.explainer.digest([s.image for s in images.samples]) if isinstance(run.explainer, StoredMaps) else None
    identity = {
        "dataset": settings_of("dataset", run.dataset),
        "images": {"count": len(images.samples), "sha256": images.digest},
        "model": settings_of("model", run.model),
        "weights": {"sha256": weights_digest(classifier.network)},
        **({"factory": {"sha256": classifier.factory}} if classifier.factory else {}),
        "method": settings_of("method", run.explainer),
        **({"maps": {"sha256": stored}} if stored else {}),
        "seed": settings.seed,
        "explained_class": settings.target,
        "target_layer": classifier.target_layer,
        **({} if classifier.layout.reshape is None else {"reshape": classifier.layout.reshape}),
        **({} if classifier.reading == "softmax" else {"output": classifier.reading}),
        **({"options": dict(classifier.implied)} if classifier.implied else {}),
        "preprocessing": {**classifier.view.settings(), "exif": "upright"},
        "device": device.type,
        "precision": settings.precision,
        "compile": settings.compile,
        "batch_size": settings.batch_size or default_batch_size(device, (side, side)),
    }
    return _plain(identity)


def settings_of(group: str, made: Any) -> dict[str, Any]:
    """The registered name and all settings of a data set, network or method, without those that change no number.

    Settings that a class got after cells of it had been computed (its attribute ``added``) stand here where one of them is not
    at its default, so that those cells stay what they are.
    """
    left_out = (*_PLACES[group], *getattr(made, "places", ()), *(["maps"] if isinstance(made, StoredMaps) else []))
    added = {f.name: f.default for f in fields(made) if f.name in getattr(made, "added", ())}
    if all(getattr(made, key) == default for key, default in added.items()):
        left_out = (*left_out, *added)
    keys = {k: v for k, v in asdict(made).items() if k not in left_out}
    return _plain({"registered": registered(type(made)), **keys})


def digest_of_identity(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def method_family(explainer: Explainer) -> Family:
    """The family of a method (:func:`method_class`)."""
    return family_of(method_class(explainer))


def method_class(explainer: Explainer) -> type:
    """The class of a method; of stored maps, that which the conf file of their method names."""
    if not isinstance(explainer, StoredMaps) or not conf_file("method", explainer.name):
        return type(explainer)
    return target_class(composed([f"method={explainer.name}"]).method, f"method={explainer.name}")


def _shown(run: Run) -> dict[str, Any]:
    """How tables show the cell, as far as its classes, or a conf file outside this project, say it: ``titles``, the names of
    data set, network and method; ``order``, the method's place in its family; ``usual``, the settings in its conf file."""
    classes = {"dataset": type(run.dataset), "model": type(run.model), "method": method_class(run.explainer)}
    said = {group: getattr(cls, "title", None) for group, cls in classes.items()}
    titles = {group: title for group, title in said.items() if isinstance(title, str)}
    order: Any = getattr(classes["method"], "order", None)
    name, usual = run.explainer.name, None
    file = conf_file("method", name)
    if file is not None and CONF not in file.parents:
        node = OmegaConf.to_container(composed([f"method={name}"]).method, resolve=True)
        usual = settings_of("method", make_target(node, "method", Explainer))
    shown = {"titles": titles or None, "order": order, "usual": usual}
    return {key: value for key, value in shown.items() if value is not None}


def column_of(metric: Metric) -> dict[str, Any]:
    """A column's entry on the card: the metric, its settings, and the fingerprint of both."""
    cls = type(metric)
    measured = _plain({"metric": registered(cls), "settings": asdict(metric), "version": metric.version})  # type: ignore[call-overload]
    return {
        "metric": measured["metric"],
        "fingerprint": hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()[:16],
        "settings": measured["settings"],
        "version": metric.version,
        "unit": metric.unit,
        "reference": metric.reference,
        "class": f"{cls.__module__}.{cls.__qualname__}",
    }


def with_columns(card: Mapping[str, Any], measured: Mapping[str, Metric]) -> tuple[dict[str, Any], dict[str, str]]:
    """A card that has the columns of some metrics.

    Returns: the card, and for each metric's name the key of its column in records: the name itself, or, where the cell has
    another setting of the metric under that name already, the name and the fingerprint.
    """
    columns = dict(card["columns"])
    keys: dict[str, str] = {}
    for name, metric in measured.items():
        column = column_of(metric)
        key = next((k for k, c in columns.items() if _same_column(k, c, name, column)), name)
        if key in columns and columns[key]["fingerprint"] != column["fingerprint"]:
            key = f"{name}-{column['fingerprint'][:8]}"
        keys[name] = key
        columns.setdefault(key, column)
    return {**card, "columns": columns}, keys


def _same_column(key: str, column: Mapping[str, Any], name: str, other: Mapping[str, Any]) -> bool:
    return column["fingerprint"] == other["fingerprint"] and key in (name, f"{name}-{other['fingerprint'][:8]}")


def name_of_column(key: str, column: Mapping[str, Any]) -> str:
    """The metric's name, which is the key without its fingerprint."""
    return key.removesuffix(f"-{column['fingerprint'][:8]}")


def metric_of(column: Mapping[str, Any], where: str) -> Metric:
    """The metric of a column, found by its registered name, or, of a class from elsewhere, by its import path.

    Raises:
        UserError: there is no such class, or its settings are other ones now.
    """
    own = _own_metrics().get(column["metric"])
    if own is None:
        return make_target({"_target_": column["class"], **column["settings"]}, where, Metric)
    return make(own, column["settings"], where)


@cache
def _own_metrics() -> dict[str, type]:
    """This project's metrics by their registered names, wherever in ``metrics`` they lie."""
    modules = [imported(f"metrics.{m.name}", f"metrics/{m.name}.py") for m in pkgutil.iter_modules(metrics.__path__)]
    classes = [c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
    return {registered(c): c for c in classes if hasattr(c, "measure")}


def _plain(value: Any) -> Any:
    """A value as it will be read again: tuples become lists."""
    return json.loads(json.dumps(value))


def source_of(cls: type) -> dict[str, str | None]:
    """SHA-256 of the module that defines a class: a changed method under the same name is told."""
    try:
        return {cls.__module__: hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()}
    except (OSError, TypeError):
        return {cls.__module__: None}


def environment(device: torch.device, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, code revision and machine that numbers were made with.

    Args:
        device: where.
        packages: whose versions decide beside the usual ones.
    """
    versions = {"python": platform.python_version()}
    for package in (*_PACKAGES, *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "versions": versions,
        "git": _git(),
        "machine": {"device": f"{device.type} ({where})", "threads": torch.get_num_threads()},
    }


def _git() -> dict[str, Any]:
    """Revision of this project's checkout, and whether files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    changed = ask("status", "--porcelain", "--untracked-files=no")
    return {"revision": ask("rev-parse", "HEAD"), "modified": None if changed is None else bool(changed)}


def superseded(folder: Path, card: Mapping[str, Any]) -> list[str]:
    """Notes on cells with the settings of a new one but another hash: their finished work does not count for it."""
    notes = []
    for path in sorted(folder.parent.glob(f"{card['identity']['method']['name']}-*/card.yaml")):
        try:
            old = CellFolder(path.parent).read_card() or {}
        except UserError as error:  # it stands in nobody's way here
            notes.append(str(error))
            continue
        identity = old.get("identity", {})
        differing = [k for k in {**identity, **card["identity"]} if identity.get(k) != card["identity"].get(k)]
        if differing and set(differing) <= set(_FOUND):
            what = " and ".join(differing)
            notes.append(f"{path.parent} has the same settings but other {what}: it stays, and all is computed anew")
    return notes


def carry_card(folder: CellFolder, old: Mapping[str, Any] | None, card: dict[str, Any], unfinished: bool) -> None:
    """Writes a cell's card where it is new or has new columns, and notes a changed environment.

    Args:
        folder: of the cell.
        old: the card that lies there.
        card: as it is now.
        unfinished: whether there is anything left to compute.
    """
    if old is None:
        folder.write_card(card)
        return
    if old.get("hash") != card["hash"]:
        raise UserError(f"{folder.folder}/card.yaml belongs to another configuration: move that folder away.")
    shown: dict[str, Any] = {key: card[key] for key in ("titles", "order", "usual") if key in card}  # they change no number
    carried = {**old, **shown, "columns": card["columns"], "code": {**card["code"], **old["code"]}}
    begun = {k: old[k] for k in ("versions", "git", "machine")} | {"code": carried["code"]}
    now = {k: card[k] for k in ("versions", "git", "machine")} | {"code": {**old["code"], **card["code"]}}
    if now != begun and now not in old.get("continued_with", []):
        changed = ", ".join(k for k, v in now.items() if v != begun[k])
        if unfinished:
            tell(f"note: this cell was begun with other {changed}; the card lists both")
            carried["continued_with"] = [*old.get("continued_with", []), now]
        else:
            tell(
                f"note: this finished cell was computed with other {changed} (see its card); delete {folder.folder} to redo it"
            )
    if carried != old:
        folder.write_card(carried)
