"""``suny.explain``, ``suny.score``: what the command line computes, without it."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import math
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from omegaconf import OmegaConf
from scipy import stats
from torch import nn

import suny
from experiments.command.configuration import CONF, read
from experiments.command.program import composed
from experiments.store.records import read_records
from metrics.base import Metric
from metrics.statistics import paired
from suny import api, choices
from suny.configured import make_target
from suny.errors import UserError
from suny.images.decode import decode
from suny.images.demo import Demo
from suny.seeds import image_seed
from tests.conftest import ROOT, Cli, SmallNet, engine_for, noise

METHODS = sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
SEARCHED = sorted(f"search/{p.stem}" for p in (CONF / "method" / "search").glob("*.yaml"))
# the settings of so small a network and image that all methods take seconds together
QUICK: dict[str, dict[str, Any]] = {"rise": {"masks": 30}, "suny_region": {"k": 3, "orders": 4}, "suny_singles": {"k": 4}}


def composed_node(group: str, choice: str, *overrides: str) -> Any:
    chosen = f"metrics=[{choice}]" if group == "metrics" else f"{group}={choice}"
    resolved: Any = OmegaConf.to_container(composed([chosen, *overrides]), resolve=True)
    return resolved[group]


@pytest.mark.parametrize("name", [*METHODS, *SEARCHED])
def test_a_method_has_the_command_line_s_settings(name: str) -> None:
    assert choices._read("method", name, seed=7) == composed_node("method", name, "seed=7")


def test_metrics_have_the_command_line_s_settings() -> None:
    for path in sorted((CONF / "metrics").glob("*.yaml")):
        assert choices._read("metrics", path.stem, 7, 225) == composed_node("metrics", path.stem, "seed=7", "points=225")
    assert choices._read("metrics", "deletion")["deletion"]["points"] == composed([]).points


def test_the_lists_name_everything_with_its_cost() -> None:
    methods, metrics = suny.methods(), suny.metrics()
    assert list(methods.index) == METHODS
    assert (methods["cost"] != "").all()
    assert (methods["reference"].str.len() > 10).all()
    assert methods.loc["rise", ["family", "maps", "cost"]].tolist() == ["baseline", "one", "4000 forwards"]
    assert methods.loc["suny_semi", ["family", "maps"]].tolist() == ["own", "N and S"]
    known = {name for path in (CONF / "metrics").glob("*.yaml") for name in choices._read("metrics", path.stem)}
    assert set(metrics.index) == known
    assert metrics.loc["deletion", ["better", "low", "high", "needs"]].tolist() == ["lower", 0, 1, ""]
    assert metrics.loc["part_hits_n", "needs"] == "parts, sides"
    assert (metrics["cost"] != "").all()


def test_metrics_cost_what_their_files_say() -> None:
    """Beside the clean image; of those that need no more than boxes and an explanation."""
    network, images = SmallNet(), noise(1, 3, 32, 32)
    found = suny.explain(network, images, 1, "suny", "relu", k=2)
    listed = suny.metrics()
    for name, row in listed.iterrows():
        if {"causes", "parts", "explain"} & set(row["needs"].split(", ")) or "curve" in row["cost"]:
            continue
        engine = api.opened(network, images, "relu").engine
        before = engine.cost
        suny.score(network, images, found, [name], boxes=[[(4, 4, 20, 20)]], masks=images[:, 0] > 0)
        spent = engine.cost - before
        said = {unit: int(count) for count, unit in re.findall(r"(\d+) (forward|backward)", row["cost"])}
        assert (spent.forwards - 1, spent.backwards) == (said.get("forward", 0), said.get("backward", 0)), name


@pytest.mark.parametrize("quick", [0.0, math.inf])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_maps_of_the_command_line(name: str, quick: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image as a cell explains it: alone, with the seed of its id, by the composed method; one by one or not."""
    monkeypatch.setattr(api, "_QUICK", quick)
    settings = QUICK.get(name, {})
    run = read(composed([f"method={name}", "seed=3", *(f"method.{key}={value}" for key, value in settings.items())]))
    network, images, targets, ids = SmallNet(), noise(3, 3, 16, 16), [1, 2, 0], ["left", "right", "high"]
    found = suny.explain(network, images, targets, name, "relu", seed=3, ids=ids, **settings)
    engine = engine_for(SmallNet(), 16, "relu", batch_size=found_batch_size(network))
    for at, image in enumerate(ids):
        seeds = [image_seed(3, image)]
        expected = run.explainer.explain(engine, images[at : at + 1], torch.tensor(targets[at : at + 1]), seeds)
        for side in ("saliency", "necessity", "sufficiency", "channels"):
            one, other = getattr(found, side), getattr(expected, side)
            assert (one is None) == (other is None)
            if one is not None:
                assert torch.equal(one[at], other[0])
        assert not expected.diagnostics or str(found.diagnostics[at]) == str(expected.diagnostics[0])
    assert found.cost == engine.cost


def found_batch_size(network: nn.Module) -> int:
    return api.opened(network, noise(1, 3, 16, 16), "relu").engine.batch_size


SIDES = ("necessity_by_n", "necessity_by_s", "sufficiency_by_s", "sufficiency_by_n")
PLAIN = ("deletion", "insertion", "overall", "energy_proportion", "max_box_acc", "iou", "entropy")


def test_a_cell_s_numbers_from_python(cli: Cli, tmp_path: Path) -> None:
    """Maps and records of run.py, from two calls on its images."""
    ended = cli(
        "method=suny_semi", "method.coalitions=8", "metrics=[fast,max_box_acc,iou,map_statistics,sides,sanity]", "points=5",
        *(f"metrics.{name}.points=5" for name in SIDES),
        "metrics.sanity.stages=1", "dataset.limit=2", "maps=true", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (cell,) = [p.parent for p in tmp_path.glob("*/*/*/card.yaml")]
    records = {r["image"]: r for r in read_records(cell)}
    ids = list(records)
    classifier = read(composed([])).model.build()
    samples = {s.image: s for s in Demo(name="demo").read().samples}
    decoded = {image: decode(samples[image].path).image for image in ids}
    view = classifier.view
    images = torch.stack([view(decoded[image]) for image in ids])
    boxes = [[(b.x0, b.y0, b.x1, b.y1) for b in view.boxes(samples[i].boxes, decoded[i].size)[0]] for i in ids]

    found = suny.explain(classifier.network, images, None, "suny_semi", classifier.target_layer, ids=ids, coalitions=8)
    for at, image in enumerate(ids):
        stored = np.load(cell / "maps" / f"{image}.npz")
        for side, maps in found.numpy().items():
            np.testing.assert_array_equal(maps[at], stored[side])
        assert json.loads(json.dumps(found.diagnostics[at])).items() <= records[image]["diagnostics"].items()

    few = [choices._read("metrics", "sides")[name] | {"points": 5} for name in SIDES]
    few.append(choices._read("metrics", "sanity")["sanity"] | {"stages": 1})
    own = [make_target(node, "", Metric) for node in few]
    labels = [samples[image].label for image in ids]
    frame = suny.score(classifier.network, images, found, [*PLAIN, *own], boxes=boxes, labels=labels, points=5)
    assert frame.index.tolist() == ids
    for image in ids:
        for key in ("target", "prob", "status", "label", *PLAIN, *SIDES, "sanity"):
            assert frame.loc[image, key] == records[image][key], (image, key)
    some = ["deletion", "energy_proportion"]
    again = suny.score(classifier.network, images, found.saliency.numpy(), some, found.targets, boxes, points=5)
    for name in some:
        assert again[name].tolist() == frame[name].tolist()


def test_a_summary_is_the_cell_s(cli: Cli, tmp_path: Path) -> None:
    """Of its records as a frame; with metrics that are no mean of numbers."""
    names = ["deletion", "iou", "max_box_acc", "pointing_game", "average_drop"]
    frames = []
    for method in ("center", "edges"):
        command = (f"method={method}", f"metrics=[{','.join(names)}]", "points=3", f"results_dir={tmp_path}")
        assert cli(*command).code == 0
        (cell,) = [p.parent for p in tmp_path.glob(f"*/*/{method}*/card.yaml")]
        frame = pd.DataFrame(read_records(cell)).set_index("image")[["target", "prob", "label", "status", *names]]
        expected = json.loads((cell / "summary.json").read_text())["metrics"]
        got = suny.summary(frame)
        for name in names:
            entry = expected[name]
            assert got.loc[name].tolist() == [entry["mean"], *entry["ci95"], entry["n"]]
        frames.append(frame)
    from experiments.store.reading import compare, read_result

    folders = [next(tmp_path.glob(f"*/*/{method}*/card.yaml")).parent for method in ("center", "edges")]
    a, b = (read_result(folder) for folder in folders)
    got = suny.compare(*frames)
    for name in names:
        entry = compare(a, b, name)
        assert entry is not None
        assert got.loc[name, ["difference", "low", "high", "n", "p", "effect"]].tolist() == [
            entry["mean"], *entry["ci95"], entry["n"], entry["p"], entry["effect"]
        ]  # fmt: skip
    assert got["better"].tolist() == ["lower", "higher", "higher", "higher", "lower"]


def test_two_methods_are_compared_on_the_images_that_both_have() -> None:
    rng = np.random.default_rng(0)
    a = pd.DataFrame({"deletion": rng.random(20)}, index=[f"i{i}" for i in range(20)])
    b = pd.DataFrame({"deletion": rng.random(20), "insertion": 1.0}, index=[f"i{i}" for i in range(5, 25)][::-1])
    a.loc["i7", "deletion"] = np.nan
    found = suny.compare(a, b)
    shared = [f"i{i}" for i in range(5, 20) if i != 7]
    x, y = a.loc[shared, "deletion"], b.loc[shared, "deletion"]
    assert found.index.tolist() == ["deletion"]
    assert found.loc["deletion", "n"] == 14
    assert found.loc["deletion", "p"] == pytest.approx(stats.wilcoxon(x, y).pvalue)
    assert found.loc["deletion", "difference"] == pytest.approx((x - y).mean())
    assert found.loc["deletion", "effect"] == paired(x.tolist(), y.tolist())["effect"]
    assert suny.compare(a, a).loc["deletion", ["difference", "p", "effect"]].tolist() == [0, 1, 0]
    other = suny.compare(b, a)
    assert other.loc["deletion", "difference"] == pytest.approx(-found.loc["deletion", "difference"])


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    network, images = SmallNet(), noise(3, 3, 16, 16)
    explainer = suny.Explainer(network, "smoothgrad", "relu", samples=4)
    together = explainer(images, ids=["a", "b", "c"])
    alone = explainer(images[2:], ids=["c"])
    assert torch.equal(together.saliency[2], alone.saliency[0])
    assert together.targets.tolist() == network.eval()(images).argmax(1).tolist()
    assert together[2].ids == ["c"]
    assert torch.equal(together[-1].saliency, alone.saliency)
    assert torch.equal(together[1:].targets, together.targets[1:])


def test_the_prepared_network_is_kept_until_its_weights_change() -> None:
    network, images = SmallNet(), noise(1, 3, 16, 16)

    def engine() -> Any:
        return api.opened(network, images).engine

    first = engine()
    assert engine() is first
    assert first.target_layer == "relu"
    assert api.opened(network, noise(1, 3, 24, 24)).engine is not first
    assert engine() is first
    before = suny.explain(network, images, 1, "gradcam").saliency
    network.fc.weight.data.mul_(-1)  # which no version of the tensor counts
    assert engine() is not first
    after = suny.explain(network, images, 1, "gradcam").saliency
    assert not torch.equal(before, after)
    assert torch.equal(after, suny.explain(SmallNetWith(network), images, 1, "gradcam").saliency)
    second = engine()
    network.bn.running_mean.add_(1)
    assert engine() is not second


def SmallNetWith(network: nn.Module) -> nn.Module:
    other = SmallNet()
    other.load_state_dict(network.state_dict())
    return other


def test_a_network_that_is_gone_is_not_kept() -> None:
    network = SmallNet()
    suny.explain(network, noise(1, 3, 16, 16), 0, "gradcam")
    assert network in api._kept
    count = len(api._kept)
    del network
    assert len(api._kept) == count - 1


def test_the_caller_s_network_is_left_alone() -> None:
    network = SmallNet().train()
    images = noise(2, 3, 16, 16).requires_grad_()
    found = suny.explain(network, images, method="suny", k=2)
    frame = suny.score(network, images, found)
    assert network.training
    assert network.bn.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not found.saliency.requires_grad
    assert not found.saliency.is_inference()
    assert torch.is_grad_enabled()
    assert len(frame) == 2


def test_a_method_of_one_s_own() -> None:
    class Brightness:
        name = "brightness"

        def explain(self, engine: Any, images: Any, targets: Any, seeds: Any) -> Any:
            from suny.explanation import Explanation

            return Explanation(images.mean(1).abs())

    images = noise(2, 3, 16, 16)
    found = suny.explain(SmallNet(), images, method=Brightness())
    assert torch.equal(found.saliency, images.mean(1).abs())
    with pytest.raises(UserError, match="settings k are given beside a method"):
        suny.explain(SmallNet(), images, method=Brightness(), k=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "rize"}, "method=rize is unknown. Did you mean 'rise'? suny.methods() lists them."),
        ({"method": "precomputed"}, "suny.score takes maps that are made already"),
        ({"method": "../train"}, "is unknown"),
        ({"method": "rise", "mask": 3}, "unknown key mask. Did you mean 'masks'?"),
        ({"method": "rise", "masks": 0}, "masks=0 should be greater than or equal to 1"),
        ({"target_layer": "relo"}, "target_layer=relo is no module of the network. Did you mean 'relu'?"),
        ({"target_layer": "fc"}, "target_layer=fc does not return a feature map"),
        ({"targets": [0]}, "targets have the shape (1,)"),
        ({"targets": [0, 3]}, "targets hold 3, and the network has 3 classes: give class indices 0..2"),
        ({"targets": [0.0, 1.0]}, "targets are torch.float64 (0, 1): give class indices 0..2"),
        ({"ids": ["a", "a"]}, "ids: 1 different ones are given for 2 images"),
        ({"images": torch.zeros(2, 1, 16, 16)}, "its first convolution (conv) takes 3 channels, the images have 1"),
        ({"images": torch.full((2, 3, 16, 16), float("nan"))}, "2 of 2 images have NaN or infinite values"),
        ({"images": "photo.jpg"}, "images are a str"),
        ({"model": "resnet50"}, "model is a str"),
    ],
)
def test_mistakes_of_explaining(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as told:
        suny.explain(**{"model": SmallNet(), "images": noise(2, 3, 16, 16), "method": "center", **arguments})
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_outputs_that_are_not_finite() -> None:
    network = SmallNet()
    network.fc.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinite outputs"):
        suny.explain(network, noise(1, 3, 16, 16))


def test_masks_are_scored_as_the_boxes_that_they_are() -> None:
    network, images, maps = SmallNet(), noise(2, 3, 16, 16), torch.rand(2, 16, 16)
    masks = np.zeros((2, 16, 16), int)
    masks[0, 4:9, 2:7] = masks[1, :3, 10:] = 1
    frame = suny.score(network, images, maps, ["energy_proportion_mask", "pointing_game_mask"], masks=masks)
    boxes = [[(2, 4, 7, 9)], [(10, 0, 16, 3)]]
    boxed = suny.score(network, images, maps, ["energy_proportion", "pointing_game"], boxes=boxes)
    assert frame["energy_proportion_mask"].tolist() == boxed["energy_proportion"].tolist()
    assert frame["pointing_game_mask"].tolist() == boxed["pointing_game"].tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"metrics": "deltion"}, "metrics=deltion is unknown. Did you mean 'deletion'? suny.metrics() lists them."),
        ({"metrics": []}, "metrics: choose at least one"),
        ({"metrics": "iou"}, "iou needs boxes: give boxes=."),
        ({"metrics": "sides"}, "needs sides: give an explanation with necessity and sufficiency maps"),
        ({"metrics": "sanity"}, "sanity needs explain: give the explanation of suny.explain"),
        ({"metrics": "auroc"}, "auroc needs causes: only data sets of the command line have them"),
        ({"maps": torch.zeros(3, 16, 16)}, "maps have the shape (3, 16, 16)"),
        ({"maps": np.array(["a", "b"])}, "maps have the shape (2,)"),
        ({"boxes": [[]]}, "boxes are 1 for 2 images"),
        ({"metrics": "pointing_game_mask"}, "pointing_game_mask needs masks: give masks=."),
        ({"masks": torch.ones(1, 16, 16)}, "masks are 1 for 2 images"),
        (
            {"masks": torch.ones(2, 16, 8)},
            "masks have the shape (2, 16, 8) of float32: give (2, 16, 16), True where the object is.",
        ),
        ({"masks": torch.full((2, 16, 16), 0.5)}, "masks have the shape (2, 16, 16) of float32: give"),
        ({"metrics": "iou", "boxes": [[(1, 2, 3)], []]}, "boxes: [1, 2, 3] is no box"),
        ({"points": 1}, "points=1 should be greater than or equal to 2"),
    ],
)
def test_mistakes_of_scoring(arguments: dict[str, Any], said: str) -> None:
    given = {"model": SmallNet(), "images": noise(2, 3, 16, 16), "maps": torch.rand(2, 16, 16), **arguments}
    with pytest.raises(UserError) as told:
        suny.score(**given)
    assert said in str(told.value)


def test_mistakes_of_comparing() -> None:
    a = pd.DataFrame({"target": [0], "deletion": [0.5]}, index=["x"])
    for b, said in [
        (a.assign(target=1), "another class in each frame"),
        (a.rename(index={"x": "y"}), "the frames share 0 images and 1 metrics"),
        (a.rename(columns={"deletion": "insertion"}), "the frames share 1 images and 0 metrics"),
        (pd.concat([a, a]), "an image is in a frame twice"),
    ]:
        with pytest.raises(UserError, match=said):
            suny.compare(a, b)
    with pytest.raises(UserError, match="own holds values that are no numbers"):
        suny.summary(pd.DataFrame({"own": ["?"]}))


def test_maps_of_other_tools_are_fitted() -> None:
    """Of another size, with negative values, with a channel axis, not finite."""
    network, images = SmallNet(), noise(2, 3, 16, 16)
    low = torch.tensor([[[-1.0, 0.0], [1.0, 2.0]]]).repeat(2, 1, 1)
    whole = nn.functional.interpolate((low + 1)[:, None], (16, 16), mode="bilinear")
    names = ["deletion", "entropy"]
    one, other = (suny.score(network, images, maps, names) for maps in (low.numpy(), whole))
    pd.testing.assert_frame_equal(one, other)
    flat = suny.score(network, images, torch.stack([torch.ones(16, 16), torch.full((16, 16), torch.inf)]), names)
    assert flat["status"].tolist() == ["degenerate"] * 2
    assert flat["entropy"].tolist()[0] == pytest.approx(1)
    assert np.isnan(flat["entropy"].tolist()[1])


def test_lists_leave_out_what_cannot_be_measured() -> None:
    network, images = SmallNet(), noise(1, 3, 16, 16)
    maps = torch.rand(1, 16, 16)
    assert list(suny.score(network, images, maps, "fast").columns[4:]) == ["deletion", "insertion", "overall"]
    boxed = suny.score(network, images, maps, "fast", boxes=[[(0, 0, 8, 40)]])
    inside = float(maps[0, :, :8].sum() / maps.sum())
    assert boxed["energy_proportion"].tolist() == [pytest.approx(inside)]
    assert list(suny.score(network, images, maps, ["necessity_10"]).columns[4:]) == ["necessity_10"]


def two_sided() -> Any:
    return suny.explain(SmallNet(), noise(3, 3, 16, 16), 1, "suny", "relu", k=3)


def test_an_explanation_tells_its_values_and_flags() -> None:
    found = two_sided()
    values = found.values(1)
    assert values["side"].tolist() == ["N"] * 3 + ["S"] * 3
    for side in ("n", "s"):
        rows = values[values["side"] == side.upper()]
        assert rows["value"].is_monotonic_decreasing
        said = dict(zip(found.diagnostics[1][f"{side}_candidates"], found.diagnostics[1][f"{side}_values"], strict=True))
        assert dict(zip(rows["player"], rows["value"], strict=True)) == said
    assert set(found.numpy()) == {"saliency", "necessity", "sufficiency"}
    flat = suny.explain(SmallNet(), noise(1, 3, 16, 16), method="constant")
    assert flat.flags == [["the map is the same everywhere, or not finite"]]
    assert flat.values().empty
    assert repr(flat) == "Explanation of 1 images of 16 x 16 by constant: one map, no pass, 1 with flags"


def test_pictures() -> None:
    found = two_sided()
    figure = found.plot(boxes=[[(2, 3, 10, 12)], [], []], names=["cat", "dog", "$bird"], limit=2)
    titles = [[axis.get_title() for axis in line.axes] for line in figure.subfigs]
    assert titles == [["input", "necessity", "sufficiency", "both", "overlay", "legend"]] * 2
    patches = [[len(axis.patches) for axis in line.axes] for line in figure.subfigs]
    assert patches == [[2, 0, 0, 0, 2, 0], [0] * 6]
    box = figure.subfigs[0].axes[0].patches[0]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (1.5, 2.5, 8, 9)
    shown = figure.subfigs[0].axes[0].images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)
    np.testing.assert_allclose(
        np.ptp(found.images[0].numpy()) * shown[3, 4], found.images[0, :, 3, 4] - found.images[0].min(), rtol=1e-5
    )
    assert figure.get_suptitle() == ""
    assert "dog" in figure.subfigs[1].get_suptitle()
    one = suny.explain(SmallNet(), noise(1, 3, 16, 16), method="gradcam").plot(photos=[np.full((16, 16, 3), 255, np.uint8)])
    assert [axis.get_title() for axis in one.axes] == ["input", "saliency", "overlay"]
    assert float(one.axes[0].images[0].get_array().min()) == 1
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []
    with pytest.raises(UserError, match="photos are 1 for 3 images"):
        found.plot(photos=[np.zeros((16, 16, 3))])
    with pytest.raises(UserError, match=r"photos: one has the shape \(16, 16\)"):
        found[0].plot(photos=[np.zeros((16, 16))])
    with pytest.raises(UserError, match="colours='blue' are unknown"):
        found.plot(colours="blue")  # type: ignore[arg-type]


def test_a_line_surrounds_what_is_above_its_band() -> None:
    """Necessity is 1 in a rectangle and .1 outside, with an error of .1: inside it is above 0 with certainty, and nowhere
    else, since .1 < 1.96 * .1. Sufficiency is nowhere certain."""
    found = suny.explain(SmallNet(), noise(1, 3, 16, 16), 1, "suny_semi", "relu", tiles=8, coalitions=16)
    assert set(found.numpy()) == {"saliency", "necessity", "sufficiency", "n_error", "s_error"}
    inside = torch.zeros(1, 16, 16, dtype=torch.bool)
    inside[:, 3:7, 5:12] = True
    necessity = torch.where(inside, 1.0, 0.1)
    even = torch.full((1, 16, 16), 0.1)
    made = dataclasses.replace(found, necessity=necessity, sufficiency=even, n_error=even, s_error=even)
    axes = {axis.get_title(): axis for axis in made.plot().axes}
    assert {title: len(axis.collections) for title, axis in axes.items()} == {
        "input": 0, "necessity": 2, "sufficiency": 0, "both": 0, "overlay": 0, "legend": 0,
    }  # fmt: skip
    (line,) = axes["necessity"].collections[0].get_paths()
    # half way between the pixels' centres
    assert line.vertices.min(0).tolist() == [4.5, 2.5]
    assert line.vertices.max(0).tolist() == [11.5, 6.5]


def test_saving(tmp_path: Path) -> None:
    found = two_sided()
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert found.save(tmp_path / "made" / f"x.{suffix}", limit=1).read_bytes().startswith(start)
    arrays = np.load(found.save(tmp_path / "maps.npz"))
    for side, maps in found.numpy().items():
        np.testing.assert_array_equal(arrays[side], maps)
    assert arrays["targets"].tolist() == [1, 1, 1]
    assert arrays["ids"].tolist() == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"cannot save .*x.txt: name a file .png"):
        found.save(tmp_path / "x.txt")
    (tmp_path / "shown.png").write_bytes(found[0]._repr_png_())
    picture = imread(tmp_path / "shown.png")
    assert picture.shape[0] > 200
    assert float(np.std(picture)) > 0.1


@pytest.mark.parametrize("module", sorted(suny._MODULES))
def test_the_examples_of_docstrings(module: str) -> None:
    tested = doctest.testmod(importlib.import_module(module))
    assert tested.failed == 0
    assert tested.attempted > 0


@pytest.mark.parametrize("name", suny.__all__)
def test_a_public_name_has_an_example_that_runs_alone(name: str) -> None:
    """As a reader copies it: with nothing defined but what the docstring itself defines."""
    own = getattr(suny, name)
    (example,) = (t for t in doctest.DocTestFinder(recurse=False).find(own, name, globs={}) if t.examples)
    tested = doctest.DocTestRunner().run(example)
    assert (tested.failed, tested.attempted > 1) == (0, True)


def test_types_are_published_and_names_resolve() -> None:
    assert (ROOT / "suny" / "py.typed").is_file()
    assert sorted(suny.__all__) == sorted(name for names in suny._MODULES.values() for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'explane'"):
        suny.explane  # noqa: B018


EXAMPLES = sorted(p.name for p in (ROOT / "examples").glob("*.py"))


def test_all_examples_are_known() -> None:
    assert EXAMPLES == ["compare_two_methods.py", "explain_your_model.py", "score_other_maps.py"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    shown = capsys.readouterr().out
    for said in {
        "explain_your_model.py": ("necessity and sufficiency", "explanation.png"),
        "score_other_maps.py": ("deletion", "mean"),
        "compare_two_methods.py": ("difference", "effect"),
    }[name]:
        assert said in shown
    if name == "explain_your_model.py":
        assert imread(tmp_path / "explanation.png").shape[0] > 200
