"""Brings cells of an earlier version of the project to this one.

A cell was named by its data, network, method and seed *and* by its metrics; now metrics are columns of it. No number changes:
values, curves and the order of the images stay as they are, and the new card says under which hashes the old ones were known.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.command.configuration import make_target
from experiments.store.card import digest_of_identity, method_family, settings_of, with_columns
from experiments.store.reading import cell_folders, summary_of
from experiments.store.records import CELL, FORMAT, CellFolder, Record, read_records
from metrics.base import Metric
from suny.classifiers.classifier import Model
from suny.errors import UserError
from suny.explanation import Explainer, StoredMaps
from suny.images.dataset import Dataset

# The modules of classes that earlier cards name by their import path, where they have moved since.
_MOVED: Mapping[str, str] = {}


def migrate_below(root: Path) -> Iterator[tuple[Path, Path]]:
    """Brings over every cell of an earlier version at any depth below a folder; yields its old and its new folder."""
    for folder in list(cell_folders(root)):
        card = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
        if isinstance(card, dict) and card.get("format", 1) == 1:
            yield folder, migrate(folder, card)


def migrate(folder: Path, old: Mapping[str, Any]) -> Path:
    """Brings one cell over.

    Returns: its folder, which may hold other metrics of the same cell already.

    Raises:
        UserError: the card names a class or a setting that this version does not have, or both cells have different numbers.
    """
    card, measured = migrated_card(old, folder)
    target = folder.parent / f"{card['identity']['method']['name']}-{card['hash'][:8]}"
    records = {r["image"]: r for r in read_records(folder, CELL)}
    if target.exists() and target != folder:
        _join(folder, target, card, measured, records)
        return target
    card, keys = with_columns(card, measured)
    with CellFolder.open(folder, CELL) as cell:
        cell.rewrite(_rekeyed(r, keys) for r in records.values())
        cell.write_card(card)
        _summarise(cell, card)
    if target != folder:
        folder.rename(target)
    return target


def migrated_card(old: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Metric]]:
    """The card of this version without columns, and the metrics that were measured."""
    configuration, protocol = old["configuration"], old["protocol"]
    made: dict[str, Any] = {}
    for group, kind in (("dataset", Dataset), ("model", Model), ("method", Explainer)):
        made[group] = make_target(_moved(configuration[group]), f"{folder}: {group}", kind)
    identity = {
        "dataset": settings_of("dataset", made["dataset"]),
        "images": old["images"],
        "model": settings_of("model", made["model"]),
        "weights": old["weights"],
        "method": settings_of("method", made["method"]),
        **({"maps": {"sha256": old["hash"]}} if isinstance(made["method"], StoredMaps) else {}),
        "seed": old["seed"],
        "explained_class": protocol["explained_class"],
        "target_layer": protocol["target_layer"],
        "preprocessing": protocol["preprocessing"],
        "device": old["machine"]["device"].split()[0],
        "precision": configuration["precision"],
        "compile": configuration.get("compile", False),
        "batch_size": configuration["batch_size"] if configuration["batch_size"] == "auto" else old["batch_size"],
    }
    measured = {
        name: make_target(_moved(configuration["metrics"][name]), f"{folder}: metrics.{name}", Metric)
        for name in protocol["metrics"]
    }
    for name, metric in measured.items():  # a later version of a metric is another metric
        if protocol["metrics"][name]["version"] != metric.version:
            raise UserError(f"{folder}: {name} was measured by version {protocol['metrics'][name]['version']} of the metric.")
    kept = ("batch_size", "configuration", "code", "versions", "git", "machine", "continued_with")
    card = {
        "hash": digest_of_identity(identity),
        "format": FORMAT,
        "identity": identity,
        "family": method_family(made["method"]),
        "columns": {},
        **{k: old[k] for k in kept if k in old},
        "migrated_from": [old["hash"]],
    }
    return card, measured


def _moved(node: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose class is looked for where it lies now."""
    module, _, name = str(node["_target_"]).rpartition(".")
    return {**node, "_target_": f"{_MOVED.get(module, module)}.{name}"}


def _join(
    folder: Path, target: Path, card: Mapping[str, Any], measured: Mapping[str, Metric], records: Mapping[str, Record]
) -> None:
    """Adds the columns of an old cell to a cell that was brought over before, and removes the old cell."""
    with CellFolder.open(target, CELL) as cell:
        there = cell.read_card() or {}
        joined, keys = with_columns(there, measured)
        rows = []
        for image, record in cell.records.items():
            other = _rekeyed(records[image], keys) if image in records else {}
            shared = [k for k in ("target", "prob", "status", *keys.values()) if k in record and k in other]
            if any(record[k] != other[k] for k in shared):
                raise UserError(f"{folder} and {target} are the same cell, but have other numbers of image {image}: keep one.")
            rows.append(_both(record, other, keys) if other else record)
        if records.keys() - cell.records.keys():
            raise UserError(f"{folder} has images that {target}, the same cell, lacks: finish that one first, or remove it.")
        cell.rewrite(rows)
        cell.write_card(
            joined := joined
            | {
                "code": {**card["code"], **there["code"]},
                "migrated_from": [*there["migrated_from"], *card["migrated_from"]],
            }
        )
        _summarise(cell, joined)
    for name in ("maps", "pictures"):
        if (folder / name).is_dir() and not (target / name).exists():
            (folder / name).rename(target / name)
    shutil.rmtree(folder)


def _summarise(cell: CellFolder, card: Mapping[str, Any]) -> None:
    """Writes the summary of a cell that is complete."""
    records = [cell.records[image] for image in sorted(cell.records)]
    cell.summary_path.unlink(missing_ok=True)
    if len(records) == card["identity"]["images"]["count"]:
        cell.write_summary(summary_of(card, records))


def _both(record: Record, other: Record, keys: Mapping[str, str]) -> Record:
    """A record with the columns of another one of the same image, and what measuring them cost."""
    new = {key: other[key] for key in keys.values() if key not in record}
    curves = {**(other.get("curves") or {}), **(record.get("curves") or {})}
    spoilt = list(dict.fromkeys([*record.get("not_finite", []), *other.get("not_finite", [])]))
    read = "explain_forwards" in record
    return {
        **record,
        **new,
        **({"forwards": record["forwards"] + other["forwards"] - other["explain_forwards"]} if new and read else {}),
        **({"not_finite": spoilt} if spoilt else {}),
        **({"curves": curves} if curves else {}),
        **({"diagnostics": {**other["diagnostics"], **record["diagnostics"]}} if read else {}),
    }


def _rekeyed(record: Record, keys: Mapping[str, str]) -> Record:
    """A record whose values and curves stand under the keys of their columns."""
    curves = {keys.get(name, name): curve for name, curve in (record.get("curves") or {}).items()}
    renamed = {keys.get(k, k): v for k, v in record.items()}
    return {**renamed, **({"curves": curves} if curves else {})}
