"""The card of a cell: what its numbers depend on, hashed, and what else a reader needs to know."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from experiments.config import Run
from experiments.progress import tell
from experiments.records import FORMAT, Cell
from metrics.base import Metric
from suny.classifiers.classifier import Classifier, weights_digest
from suny.classifiers.engine import default_batch_size
from suny.errors import UserError
from suny.explanation import StoredMaps
from suny.images.dataset import ImageList

_PACKAGES = (
    "suny-benchmark", "torch", "torchvision", "numpy", "scipy", "pillow", "grad-cam", "captum", "scikit-image",
    "scikit-learn", "opencv-python-headless", "hydra-core", "omegaconf", "pandas",
)  # fmt: skip


# of a metric's protocol, what does not change a number
TEXTS = ("unit", "reference")


def make_card(
    run: Run,
    images: ImageList,
    classifier: Classifier,
    device: torch.device,
    metrics: dict[str, Metric],
    skipped: dict[str, str],
) -> dict[str, Any]:
    """What the numbers depend on, hashed, and what else a reader needs to know."""
    protocol = {
        "explained_class": run.settings.target,
        "target_layer": classifier.target_layer,
        "preprocessing": {**asdict(classifier.view), "exif": "upright"},
        "metrics": {
            name: {
                **asdict(metric),  # type: ignore[call-overload]
                "version": metric.version,
                "unit": metric.unit,
                "reference": metric.reference,
            }
            for name, metric in metrics.items()
        },
        "skipped": skipped,
    }
    protocol = json.loads(json.dumps(protocol))  # tuples become lists, as they will be read again
    decisive = protocol | {
        "metrics": {name: {k: v for k, v in m.items() if k not in TEXTS} for name, m in protocol["metrics"].items()}
    }
    stored = isinstance(run.explainer, StoredMaps)
    keys = run.resolved["method"] | asdict(run.explainer)  # type: ignore[call-overload]
    settings = run.settings
    numbers = {
        "seed": settings.seed,
        "device": device.type,
        "precision": settings.precision,
        "batch_size": settings.batch_size or default_batch_size(device, (classifier.view.crop, classifier.view.crop)),
        "dataset": {k: v for k, v in run.resolved["dataset"].items() if k not in ("root", "strict")},
        "model": {k: v for k, v in run.resolved["model"].items() if k != "checkpoint"},
        "method": {k: v for k, v in keys.items() if not (stored and k == "maps")},
        **({"maps": run.explainer.digest([s.image for s in images.samples])} if isinstance(run.explainer, StoredMaps) else {}),
        **({"curves": True} if settings.curves else {}),
        **({"compile": True} if settings.compile else {}),
        "protocol": {k: v for k, v in decisive.items() if k != "skipped"} | {"skipped": sorted(skipped)},
        "images": images.digest,
        "weights": weights_digest(classifier.network),
    }
    return {
        "hash": hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest(),
        "format": FORMAT,
        "configuration": run.resolved,
        "protocol": protocol,
        "seed": settings.seed,
        "batch_size": numbers["batch_size"],
        "images": {"count": len(images.samples), "sha256": images.digest},
        "weights": {"sha256": numbers["weights"]},
        "code": {type(x).__module__: _source(type(x)) for x in (run.explainer, *metrics.values())},
        **environment(device),
    }


def _source(cls: type) -> str | None:
    """SHA-256 of the module that defines a class: a changed method under the same name is told."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, code revision and machine that numbers were made with."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
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
    root = Path(__file__).resolve().parent.parent

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    changed = ask("status", "--porcelain", "--untracked-files=no")
    return {"revision": ask("rev-parse", "HEAD"), "modified": None if changed is None else bool(changed)}


def superseded(folder: Path, card: dict[str, Any]) -> list[str]:
    """What to tell of cells with the settings of a new one but another hash, whose finished work does not count for it."""
    found = []
    for other in sorted(folder.parent.glob(f"{card['configuration']['method']['name']}-*/card.yaml")):
        try:
            old = Cell(other.parent).read_card() or {}
        except UserError:  # it stands in nobody's way here
            continue
        if _settings(old.get("configuration")) != _settings(card["configuration"]):
            continue
        other_parts = [k for k in ("protocol", "images", "weights", "batch_size") if old.get(k) != card[k]]
        what = " and ".join(other_parts) or "version of the project"
        found.append(f"{other.parent} has the same settings but other {what}: it stays, and all is computed anew")
    return found


def _settings(configuration: Any) -> Any:
    """A configuration without what changes no number."""
    if not isinstance(configuration, dict):
        return None
    settings = {k: v for k, v in configuration.items() if k not in ("results_dir", "pictures", "maps")}
    dataset = {k: v for k, v in settings.get("dataset", {}).items() if k not in ("root", "strict")}
    return settings | {"dataset": dataset}


def carry_card(cell: Cell, old: dict[str, Any] | None, card: dict[str, Any]) -> None:
    """Writes a new cell's card; for an old one checks that it is the same cell, and notes a changed environment."""
    if old is None:
        cell.write_card(card)
        return
    if old.get("hash") != card["hash"]:
        raise UserError(f"{cell.folder}/card.yaml belongs to another configuration: move that folder away.")
    made_with = {k: old.get(k) for k in ("versions", "git", "machine", "code")}
    now = {k: card[k] for k in made_with}
    if now == made_with or now in old.get("continued_with", []):
        return
    changed = ", ".join(k for k, v in now.items() if v != made_with[k])
    if len(cell.records) == card["images"]["count"]:
        tell(f"note: this finished cell was computed with other {changed} (see its card); delete {cell.folder} to redo it")
    else:
        tell(f"note: this cell was begun with other {changed}; the card lists both")
        cell.write_card({**old, "continued_with": [*old.get("continued_with", []), now]})
