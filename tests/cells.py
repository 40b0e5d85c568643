"""Cells made by hand: a card and records as a run leaves them, with numbers that a test chooses."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from experiments.command.configuration import make_target
from experiments.command.program import composed
from experiments.store.card import digest_of_identity, method_family, settings_of, with_columns
from experiments.store.records import FORMAT, CellFolder, read_records
from metrics.base import Metric
from suny.classifiers.classifier import Model
from suny.explanation import Explainer, StoredMaps
from suny.images.dataset import Dataset

# the configuration of a cell is composed once for each choice: it takes a tenth of a second
_KNOWN: dict[tuple[str, ...], dict[str, Any]] = {}


def configuration(*overrides: str) -> dict[str, Any]:
    if overrides not in _KNOWN:
        _KNOWN[overrides] = OmegaConf.to_container(composed(list(overrides)), resolve=True)  # type: ignore[assignment]
    return copy.deepcopy(_KNOWN[overrides])


def write_cell(
    root: Path,
    method: str,
    values: Mapping[str, Sequence[Any]],
    overrides: Sequence[str] = (),
    images: int | None = None,
    changes: Mapping[str, Any] | None = None,
    records: Mapping[str, Sequence[Any]] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Writes a cell below ``root``, or adds metrics to the one that is there already.

    Args:
        root: a results_dir.
        method: name of its conf file.
        values: for each metric (one of ``conf/metrics``) a value an image.
        overrides: of the configuration.
        images: how many the data set has; default: as many as there are records.
        changes: of the cell's identity, by key.
        records: for other keys of the records a value an image.
        names: ids of the images; default: image-000, ...
    """
    made = configuration(f"method={method}", f"metrics=[{','.join(values)}]", *overrides)
    count = len(next(iter(values.values())))
    names = names or [f"image-{i:03d}" for i in range(count)]
    total = images or count
    preprocessing = {
        "resize": 256, "crop": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "exif": "upright",
    }  # fmt: skip
    identity = {
        "dataset": settings_of("dataset", make_target(made["dataset"], "dataset", Dataset)),
        "images": {"count": total, "sha256": hashlib.sha256(f"{made['dataset']['name']} {total}".encode()).hexdigest()},
        "model": settings_of("model", make_target(made["model"], "model", Model)),
        "weights": {"sha256": hashlib.sha256(made["model"]["name"].encode()).hexdigest()},
        "method": settings_of("method", explainer := make_target(made["method"], "method", Explainer)),
        **({"maps": {"sha256": "0" * 64}} if isinstance(explainer, StoredMaps) else {}),
        "seed": made["seed"], "explained_class": made["target"], "target_layer": "last", "preprocessing": preprocessing,
        "device": "cpu", "precision": made["precision"], "compile": made["compile"], "batch_size": 8,
    } | dict(changes or {})  # fmt: skip
    measured = {name: make_target(node, name, Metric) for name, node in made["metrics"].items()}
    card = {
        "hash": digest_of_identity(identity),
        "format": FORMAT,
        "identity": identity,
        "family": method_family(explainer),
        "columns": {},
        "batch_size": 8,
        "configuration": made,
        "code": {},
        "versions": {"torch": "2"},
        "git": {"revision": "0123456789", "modified": False},
        "machine": {"device": "cpu (x86_64)", "threads": 1},
    }
    digest = card["hash"]
    folder = root / made["dataset"]["name"] / made["model"]["name"] / f"{made['method']['name']}-{digest[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    there = CellFolder(folder).read_card() or card
    earlier = {r["image"]: r for r in read_records(folder)}
    card, keys = with_columns(there, measured)
    (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    lines = []
    for i, name in enumerate(names):
        record = {
            "image": name, "target": 1, "prob": 0.8, "forwards": 10, "seconds": 1.0, "status": "ok", "label": 1, "predicted": 1,
            "boxes": 1, "boxes_lost": 0, "explain_forwards": 3, "explain_tail_forwards": 0, "explain_backwards": 1,
            "explain_seconds": 0.5, "diagnostics": {},
        }  # fmt: skip
        record |= earlier.get(name, {}) | {keys[metric]: column[i] for metric, column in values.items()}
        record |= {key: column[i] for key, column in (records or {}).items()}
        lines.append(json.dumps(record) + "\n")
    (folder / "records.jsonl").write_text("".join(lines))
    return folder


def change_record(folder: Path, image: int, **keys: Any) -> None:
    """Changes one record of a cell."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    lines[image] = json.dumps(json.loads(lines[image]) | keys)
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
