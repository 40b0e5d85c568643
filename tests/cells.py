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

from experiments.cli import composed

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
    """Writes a cell below ``root``.

    Args:
        root: a results_dir.
        method: name of its conf file.
        values: for each metric (one of ``conf/metrics``) a value an image.
        overrides: of the configuration.
        images: how many the data set has; default: as many as there are records.
        changes: of the protocol of the cell, by key.
        records: for other keys of the records a value an image.
        names: ids of the images; default: image-000, ...
    """
    made = configuration(f"method={method}", f"metrics=[{','.join(values)}]", *overrides)
    count = len(next(iter(values.values())))
    names = names or [f"image-{i:03d}" for i in range(count)]
    total = images or count
    metrics = {
        name: {k: v for k, v in node.items() if k != "_target_"} | {"version": 1, "unit": "-", "reference": "-"}
        for name, node in made["metrics"].items()
    }
    preprocessing = {
        "resize": 256, "crop": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "exif": "upright",
    }  # fmt: skip
    changes = dict(changes or {})
    seed = changes.pop("seed", made["seed"])
    card = {
        "configuration": made,
        "protocol": {
            "explained_class": made["target"], "target_layer": "last", "preprocessing": preprocessing, "metrics": metrics,
            "skipped": {},
        } | changes,
        "seed": seed,
        "batch_size": 8,
        "images": {"count": total, "sha256": hashlib.sha256(f"{made['dataset']['name']} {total}".encode()).hexdigest()},
        "weights": {"sha256": hashlib.sha256(made["model"]["name"].encode()).hexdigest()},
        "versions": {"torch": "2"},
        "git": {"revision": "0123456789", "modified": False},
        "machine": {"device": "cpu (x86_64)", "threads": 1},
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    folder = root / made["dataset"]["name"] / made["model"]["name"] / f"{made['method']['name']}-{digest[:8]}"
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text(yaml.safe_dump({"hash": digest, **card}, sort_keys=False))
    lines = []
    for i, name in enumerate(names):
        record = {
            "image": name, "target": 1, "prob": 0.8, "forwards": 10, "seconds": 1.0, "status": "ok", "label": 1, "predicted": 1,
            "boxes": 1, "boxes_lost": 0, "explain_forwards": 3, "explain_tail_forwards": 0, "explain_backwards": 1,
            "explain_seconds": 0.5, "diagnostics": {},
        }  # fmt: skip
        record |= {metric: column[i] for metric, column in values.items()}
        record |= {key: column[i] for key, column in (records or {}).items()}
        lines.append(json.dumps(record) + "\n")
    (folder / "records.jsonl").write_text("".join(lines))
    return folder


def change_record(folder: Path, image: int, **keys: Any) -> None:
    """Changes one record of a cell."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    lines[image] = json.dumps(json.loads(lines[image]) | keys)
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
