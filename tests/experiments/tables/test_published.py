"""Our numbers beside the published ones."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from experiments.store.reading import read_results
from experiments.tables.published import NAMES, PUBLISHED, PublishedNumber, agreements, joined, markdown, tidy
from tests.cells import write_cell

VGG = ("dataset=ilsvrc2012", "model=vgg16")
CUB = ("dataset=cub", "model=resnet50")


def lines(root: Path, **wanted: str) -> list[PublishedNumber]:
    return [x for x in joined(read_results(root)) if all(getattr(x, k) == v for k, v in wanted.items())]


def test_all_published_numbers_are_joined(tmp_path: Path) -> None:
    write_cell(tmp_path, "gradcam", {"deletion": [0.1, 0.2]})
    found = joined(read_results(tmp_path))
    with PUBLISHED.open() as file:
        rows = list(csv.DictReader(file))
    assert len(found) == len(rows) == 288
    assert [[x.dataset, x.model, x.method, x.metric, x.value] for x in found] == [
        [r["dataset"], r["model"], r["method"], r["metric"], float(r["value"])] for r in rows
    ]
    assert all(x.ours is None and x.why for x in found)
    assert {NAMES[r[k]] for r in rows for k in ("dataset", "model")} == {
        "ilsvrc2012",
        "cub",
        "vgg16",
        "inception_v3",
        "resnet50",
    }


def test_a_number_that_compares(tmp_path: Path) -> None:
    """Published: Grad-CAM, VGG16, ILSVRC2012: deletion .1098, energy proportion in percent."""
    values = {"deletion": [0.08, 0.1, 0.11, 0.12, 0.14], "energy_proportion": [0.4, 0.5, 0.55, 0.6, 0.7]}
    write_cell(tmp_path, "gradcam", values, overrides=VGG)
    (deletion,) = lines(tmp_path, dataset="ILSVRC2012", model="VGG16", method="Grad-CAM", metric="deletion")
    assert deletion.ours is not None
    assert deletion.ours["n"] == 5
    assert deletion.difference == pytest.approx(0.11 - 0.1098)
    assert deletion.within is True
    (energy,) = lines(tmp_path, dataset="ILSVRC2012", model="VGG16", method="Grad-CAM", metric="energy_proportion_percent")
    assert energy.ours is not None
    assert energy.ours["mean"] == pytest.approx(55)
    assert energy.difference == pytest.approx(55 - energy.value)
    found = csv.DictReader(tidy(joined(read_results(tmp_path))).splitlines())
    known = [r for r in found if r["ours"]]
    assert [(r["method"], r["metric"], r["within_interval"]) for r in known] == [
        ("Grad-CAM", "deletion", "True"),
        ("Grad-CAM", "energy_proportion_percent", str(energy.within)),
    ]
    text = markdown(read_results(tmp_path), joined(read_results(tmp_path)))
    assert "288 published numbers (results/published.csv), 2 of them compared" in text
    assert "| Grad-CAM   | deletion" in text
    assert "+0.0002" in text
    far = [v + 0.3 for v in values["deletion"]]
    write_cell(tmp_path, "gradcampp", {"deletion": far}, overrides=VGG)
    (worse,) = lines(tmp_path, dataset="ILSVRC2012", model="VGG16", method="Grad-CAM++", metric="deletion")
    assert worse.within is False


@pytest.mark.parametrize(
    ("method", "overrides", "place", "why"),
    [
        ("gradcam", ["dataset=ilsvrc2012"], ("ILSVRC2012", "VGG16"), "other network: efficientnet_lite0"),
        ("gradcam", [*VGG, "model.weights=random"], ("ILSVRC2012", "VGG16"), "other network: random weights"),
        ("gradcam", [*VGG, "model.checkpoint=own.pth"], ("ILSVRC2012", "VGG16"), "other network: own weights"),
        ("gradcam", [*VGG, "points=5"], ("ILSVRC2012", "VGG16"), "other protocol: 5 points"),
        ("gradcam", [*VGG, "metrics.deletion.fill=blur"], ("ILSVRC2012", "VGG16"), "other protocol: fill=blur"),
        ("gradcam", CUB, ("CUB-200-2011", "ResNet50"), "other network: not trained on this data set"),
        (
            "gradcam", [*CUB, "model.checkpoint=x.pth", "model.num_classes=10"], ("CUB-200-2011", "ResNet50"),
            "other network: 10 classes",
        ),
        ("gradcam", ["dataset=imagefolder", "model=vgg16"], ("ILSVRC2012", "VGG16"), "other data: imagefolder"),
        ("gradcam", ["dataset=demo"], ("ILSVRC2012", "VGG16"), "other data and network: demo / efficientnet_lite0"),
        ("gradcampp", VGG, ("ILSVRC2012", "VGG16"), "not computed"),
    ],
)  # fmt: skip
def test_what_does_not_compare_says_why(
    tmp_path: Path, method: str, overrides: list[str], place: tuple[str, str], why: str
) -> None:
    write_cell(tmp_path, method, {"deletion": [0.1, 0.2]}, overrides=overrides)
    (found,) = lines(tmp_path, dataset=place[0], model=place[1], method="Grad-CAM", metric="deletion")
    assert (found.ours, found.why, found.difference, found.within) == (None, why, None, None)


def test_explaining_the_label_does_not_compare(tmp_path: Path) -> None:
    write_cell(tmp_path, "gradcam", {"deletion": [0.1, 0.2]}, overrides=VGG, changes={"explained_class": "label"})
    (found,) = lines(tmp_path, dataset="ILSVRC2012", model="VGG16", method="Grad-CAM", metric="deletion")
    assert found.why == "other protocol: explained class label"


def test_a_network_trained_on_birds_compares(tmp_path: Path) -> None:
    write_cell(tmp_path, "gradcam", {"deletion": [0.1, 0.2]}, overrides=[*CUB, "model.checkpoint=birds.pth"])
    (found,) = lines(tmp_path, dataset="CUB-200-2011", model="ResNet50", method="Grad-CAM", metric="deletion")
    assert found.ours is not None


def test_the_attack_never_compares(tmp_path: Path) -> None:
    write_cell(tmp_path, "gradcam", {"saliency_attack": [1.0, 2.0]}, overrides=VGG)
    assert {x.why for x in lines(tmp_path, metric="saliency_attack")} == {"the published protocol is not public"}


def test_agreement_of_the_rankings(tmp_path: Path) -> None:
    """Published deletion, VGG16: Score-CAM .1070, Grad-CAM .1098, Grad-CAM++ .1155, CexCNN .1161, RISE .1185."""
    for method, mean in {"scorecam": 0.1, "gradcam": 0.3, "gradcampp": 0.2, "cexcnn": 0.35, "rise": 0.4}.items():
        write_cell(tmp_path, method, {"deletion": [mean, mean]}, overrides=VGG)
        write_cell(tmp_path, method, {"deletion": [-mean, -mean]}, overrides=["dataset=ilsvrc2012"])
    results = read_results(tmp_path)
    found = {(a.model, a.ours): a for a in agreements(results, joined(results))}
    same = found["VGG16", "ilsvrc2012 / vgg16, deletion ↓"]
    assert same.tau == pytest.approx((9 - 1) / 10)  # one of ten pairs is turned
    assert (same.same, same.methods) == ("same", 5)
    other = found["VGG16", "ilsvrc2012 / efficientnet_lite0, deletion ↓"]
    assert other.tau == pytest.approx(-8 / 10)
    assert other.same == "other network: efficientnet_lite0"
    assert {a.metric for a in found.values()} == {"deletion"}
    assert {a.dataset for a in found.values()} == {"ILSVRC2012"}
    assert "| ILSVRC2012 | VGG16        | deletion | ilsvrc2012 / vgg16, deletion ↓" in markdown(results, joined(results))


def test_too_few_say_nothing(tmp_path: Path) -> None:
    """Four images have no interval, in which a published number could lie, and four methods no rank correlation."""
    for method, mean in {"scorecam": 0.1, "gradcam": 0.2, "gradcampp": 0.3, "rise": 0.4}.items():
        write_cell(tmp_path, method, {"deletion": [mean, mean, mean, mean + 0.1]}, overrides=VGG)
    results = read_results(tmp_path)
    (found,) = {(a.tau, a.p, a.methods) for a in agreements(results, joined(results)) if a.same == "same"}
    assert found == (None, None, 4)
    text = markdown(results, joined(results))
    assert re.search(r"\| same +\| - +\| - +\| +4 +\|", text), text
    assert re.search(r"\| Score-CAM +\| deletion +\| 0.1070 +\| 0.1250 - +\| +4 +\| \+0.0180 +\| - +\|", text), text
    (row,) = [r for r in csv.DictReader(tidy(joined(results)).splitlines()) if r["method"] == "Score-CAM" and r["ours"]]
    assert (row["ours"], row["low"], row["high"], row["n"], row["within_interval"]) == ("0.125", "", "", "4", "")
