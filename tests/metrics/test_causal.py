"""Known causes: the generator, the networks that follow its rules, and the scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from experiments import train_causal
from experiments.training import causal as training
from metrics.base import Case
from metrics.causal import (
    CalibrationError,
    CausalAuroc,
    FilterAgreement,
    PairAccuracy,
    auroc,
    channel_tables,
    evaluate,
    rank_agreement,
    recovery,
)
from suny.classifiers.causal_networks import HUES, REDUNDANT, CausalAnalytic, CausalCnn
from suny.classifiers.engine import Engine
from suny.errors import UserError
from suny.games.values import all_coalitions, shapley, singles
from suny.images.causal_shapes import CausalShapes, make
from suny.images.decode import decode
from suny.images.known_causes import KnownCauses
from suny.images.scenes import WORLDS, compose, draw_scene, retained
from suny.images.view import View
from tests.conftest import Cli, only_error

MAIN, COLOURS = WORLDS["main"], WORLDS["colours"]
PLAIN = View(resize=64, crop=64, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


def causes_of(*kinds: str, masks: Tensor | None = None) -> KnownCauses:
    found = retained(MAIN, kinds)
    rule = MAIN.classes[MAIN.label(kinds)]
    empty = torch.empty(len(kinds), 0)
    return KnownCauses(MAIN.label(kinds), rule, empty if masks is None else masks, found, lambda _: torch.empty(0))


def shapes(root: Path, **settings: object) -> CausalShapes:
    return CausalShapes(name="causal_shapes", root=str(root), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kinds", "rule", "necessity", "sufficiency", "matters"),
    [
        (("a", "x"), "one", [1, 0], [1, 0], [1, 0]),
        (("b", "c", "n0"), "and", [1, 1, 0], [0, 0, 0], [1, 1, 0]),
        (("d", "e"), "or", [0, 0], [1, 1], [1, 1]),
        (("d",), "or", [1], [1], [1]),
        (("f", "g", "h"), "two_of_three", [0, 0, 0], [0, 0, 0], [1, 1, 1]),
        (("f", "h", "b"), "two_of_three", [1, 1, 0], [0, 0, 0], [1, 1, 0]),
        (("p", "x"), "inhibit", [1, 0], [1, 0], [1, 0]),
        # the class "none" of a cause and its inhibitor: without the inhibitor it is another class
        (("p", "q"), "none", [0, 1], [-1, 0], [1, 1]),
    ],
)
def test_effects_follow_from_the_rules(
    kinds: tuple[str, ...], rule: str, necessity: list[int], sufficiency: list[int], matters: list[int]
) -> None:
    causes = causes_of(*kinds)
    assert causes.rule == rule
    assert causes.necessity.tolist() == necessity
    assert causes.sufficiency.tolist() == sufficiency
    assert causes.matters.tolist() == [bool(m) for m in matters]


def test_shapley_values_of_the_rules_hide_and_from_or() -> None:
    for kinds in (("b", "c"), ("d", "e")):
        assert shapley(causes_of(*kinds).retained) == pytest.approx([0.5, 0.5])
    assert singles(causes_of("b", "c").retained).tolist() == [0, 0]
    assert singles(causes_of("d", "e").retained).tolist() == [1, 1]


@given(st.integers(0, 10_000), st.sampled_from(sorted(WORLDS)), st.booleans())
def test_a_scene_satisfies_its_rule_alone(seed: int, name: str, none: bool) -> None:
    world, rng = WORLDS[name], np.random.default_rng(seed)
    rule = None if none else world.rules[seed % len(world.rules)]
    kinds = compose(world, rule, rng)
    assert [r for r in world.rules if r.holds(frozenset(kinds))] == ([rule] if rule else [])
    assert len(set(kinds)) == len(kinds)


def test_worlds_share_no_kind_of_shape() -> None:
    main, dev = ({(k.form, k.hue) for k in WORLDS[name].kinds.values()} for name in ("main", "dev"))
    assert not main & dev
    assert {r.name for r in MAIN.rules} - {r.name for r in WORLDS["dev"].rules} == {"two_of_three"}


def test_the_bystander_goes_with_the_first_rule_and_does_nothing() -> None:
    entries = [make(MAIN, 5 * i, 64, seed=1)[1] for i in range(200)]
    with_it = [e for e in entries if "x" in e["kinds"]]
    assert 0.84 < len(with_it) / len(entries) < 0.95  # .9 with a standard error of .021
    assert not any(e["matters"][e["kinds"].index("x")] for e in with_it)


def test_shapes_lie_in_the_image_and_apart() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scene = draw_scene(MAIN, compose(MAIN, MAIN.rules[seed % 5], rng), 96, rng)
        assert sorted(set(scene.owner.ravel())) == list(range(len(scene.kinds) + 1))
        outside = scene.owner == 0
        assert (scene.image[outside] == scene.background[outside]).all()
        # hues stay in their 30 degrees, whatever shade and texture
        for index, kind in enumerate(scene.kinds):
            r, g, b = scene.image[scene.owner == index + 1].astype(float).mean(0)
            hue = np.rad2deg(np.arctan2(np.sqrt(3) / 2 * (g - b), r - g / 2 - b / 2))
            assert abs((hue - MAIN.kinds[kind].hue + 180) % 360 - 180) < 12


def test_the_data_set_on_disk(tmp_path: Path) -> None:
    data = shapes(tmp_path, count=10)
    images = data.load()
    assert [s.label for s in images.samples] == [0, 1, 2, 3, 4] * 2
    assert images.class_names == {0: "one", 1: "and", 2: "or", 3: "two_of_three", 4: "inhibit", 5: "none"}
    sample = images.samples[1]
    entry = json.loads((data.folder / "truth.json").read_text())["images"][sample.image]
    causes = data.known_causes(sample, PLAIN)
    assert causes.rule == "and"
    assert causes.retained.astype(int).tolist() == entry["retained"]
    whole = PLAIN(decode(sample.path).image)
    erased = causes.intervene(~np.eye(causes.count, dtype=bool))
    kept = causes.intervene(np.eye(causes.count, dtype=bool))
    nothing = causes.intervene(np.zeros((1, causes.count), bool))[0]
    for i, mask in enumerate(causes.masks):
        assert torch.equal(erased[i], torch.where(mask, nothing, whole))
        assert torch.equal(kept[i], torch.where(mask, whole, nothing))
    assert len(sample.boxes) == sum(entry["matters"])
    x0, y0, x1, y1 = entry["boxes"][0]
    inside = causes.masks[0].nonzero()
    assert [x0, y0] == inside.amin(0).flip(0).tolist()
    assert [x1 - 1, y1 - 1] == inside.amax(0).flip(0).tolist()


def test_the_same_seed_makes_the_same_images(tmp_path: Path) -> None:
    digests = [shapes(tmp_path / str(i), count=6, generator_seed=seed).load().digest for i, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]
    # more images of a seed begin with the same ones
    few, more = (make(MAIN, 3, 64, seed=0) for _ in range(2))
    assert all((few[2][k] == more[2][k]).all() for k in few[2])


def test_a_network_of_another_size_sees_masks_where_the_shapes_are(tmp_path: Path) -> None:
    data = shapes(tmp_path, count=1, size=128)
    sample = data.load().samples[0]
    view = View(resize=64, crop=64, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    causes = data.known_causes(sample, view)
    whole = view(decode(sample.path).image)
    for i, mask in enumerate(causes.masks):
        changed = (causes.intervene(~np.eye(causes.count, dtype=bool)[i : i + 1])[0] - whole).abs().amax(0) > 0.08
        assert float((changed & ~mask).sum()) < 0.2 * float(mask.sum())  # the border alone
        assert float((changed & mask).sum()) > 0.8 * float(mask.sum())


def test_a_damaged_list_is_told(tmp_path: Path) -> None:
    data = shapes(tmp_path, count=2)
    data.load()
    (data.folder / "truth.json").write_text("{}")
    with pytest.raises(UserError, match="remove the folder, it is made again"):
        shapes(tmp_path, count=2).load()
    (data.folder / "truth.json").unlink()  # without its list a folder is no data set: it is made again
    assert len(shapes(tmp_path, count=2).load().samples) == 2


@pytest.fixture(scope="module")
def analytic() -> Engine:
    return Engine.of(CausalAnalytic(name="causal_analytic").build())


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> CausalShapes:
    data = shapes(tmp_path_factory.mktemp("data"), count=20, world="colours")
    data.load()
    return data


def cases(data: CausalShapes, engine: Engine) -> list[Case]:
    view = CausalAnalytic(name="causal_analytic").build().view
    found = []
    for sample in data.load().samples:
        image = view(decode(sample.path).image)
        causes = data.known_causes(sample, view)
        found.append(Case(engine, image, int(sample.label or 0), torch.zeros(64, 64), causes=causes))
    return found


def test_the_analytic_network_follows_the_rules_under_every_intervention(analytic: Engine, colours: CausalShapes) -> None:
    sigma = {True: 1 / (1 + np.exp(-6.0) * (1 + 4 * np.exp(-6.0))), False: np.exp(-6.0) / (1 + 5 * np.exp(-6.0))}
    for case in cases(colours, analytic):
        causes = case.causes
        assert causes is not None
        p = analytic.probabilities(causes.intervene(all_coalitions(causes.count)))[:, causes.label].numpy()
        # logits of the rules are 6 or -6, of "none" 0
        assert p == pytest.approx([sigma[bool(r)] for r in causes.retained], abs=1e-5)


def test_channel_values_of_the_analytic_network(analytic: Engine, colours: CausalShapes) -> None:
    seen = set()
    for case in cases(colours, analytic)[:5]:
        causes = case.causes
        assert causes is not None
        necessity, sufficiency = channel_tables(case)
        # the class's own causes in the image, as channels; everything else has no effect
        rule = next(r for r in COLOURS.rules if r.name == causes.rule)
        entry = json.loads((colours.folder / "truth.json").read_text())["images"]
        kinds = [k for e in entry.values() if e["label"] == causes.label for k in e["kinds"] if k in rule.kinds][
            : len(rule.kinds)
        ]
        there = [HUES.index(k) for k in kinds]
        expected_n, expected_s = np.zeros(13), np.zeros(13)
        if causes.rule == "one":  # two channels see the one cause: either will do
            expected_s[[*there, REDUNDANT]] = 1
        elif causes.rule in ("and", "inhibit"):
            expected_n[there] = 1
            expected_s[there] = causes.rule == "inhibit"
        elif causes.rule == "or":
            expected_s[there] = 1
        else:
            continue
        seen.add(causes.rule)
        assert singles(necessity) == pytest.approx(expected_n, abs=0.01)
        assert singles(sufficiency) == pytest.approx(expected_s, abs=0.01)
        case.channels = torch.from_numpy(np.stack([expected_n, expected_s])).float()
        assert FilterAgreement().measure(case) == pytest.approx(1, abs=1e-6)
        assert FilterAgreement(score="recovery").measure(case) == 1
    assert seen == {"one", "and", "or", "inhibit"}


@pytest.mark.whole
@pytest.mark.parametrize("world", ["main", "dev"])
def test_the_trained_networks_follow_the_rules(world: str) -> None:
    """On new images: as they are, and with each shape erased, or kept, alone (measured: docs/known_causes.md)."""
    scenes = training.drawn(WORLDS[world], 1500, seed=77, title="scenes")
    network = CausalCnn(name="causal_cnn", world=world).build().network  # type: ignore[arg-type]
    right = {name: good / n for name, (good, n) in training.accuracy(network, scenes).items()}
    assert right["clean"] >= 0.99
    assert min(right.values()) >= 0.985
    file = Path(train_causal.__file__).parent.parent / "suny" / "classifiers" / f"causal_cnn_{world}.safetensors"
    assert file.stat().st_size < 300_000


def test_training_labels_are_the_rules(tmp_path: Path) -> None:
    scenes = training.drawn(MAIN, 14, seed=3, title="scenes")
    rows = torch.arange(14)
    for index in range(14):
        rng = np.random.default_rng([3, index])
        kinds = compose(MAIN, [*MAIN.rules, None, None][index % 7], rng)
        for there in all_coalitions(scenes.most):
            left = [k for k, kept in zip(kinds, there, strict=False) if kept]
            assert int(scenes.label(rows[index : index + 1], torch.from_numpy(there)[None])[0]) == MAIN.label(left)
    images, labels = training.intervened(scenes, rows, torch.Generator().manual_seed(0))
    assert images.shape == (14, 3, 64, 64)
    assert bool(((labels >= 0) & (labels <= 5)).all())


def test_training_writes_weights_and_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKED", 20)
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        assert train_causal.main(["scenes=128", "epochs=1", f"out={file}"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "clean: " in capsys.readouterr().out
    for argument, said in (("world=mars", "world=mars is unknown"), ("epochs=0", "epochs=0"), ("rate=1", "unknown key rate")):
        with pytest.raises(UserError, match=said):
            train_causal.main([argument])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_sklearns(pairs: list[tuple[int, bool]]) -> None:
    values, positive = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    if positive.all() or not positive.any():
        assert auroc(values, positive) is None
    else:
        assert auroc(values, positive) == pytest.approx(roc_auc_score(positive, values))


def truth_maps(case: Case) -> tuple[Tensor, Tensor]:
    """The maps that say what is true: each shape's pixels at its effect."""
    causes = case.causes
    assert causes is not None
    n, s = (torch.from_numpy(e).float() for e in (causes.necessity, causes.sufficiency))
    return tuple((e[:, None, None] * causes.masks).sum(0) for e in (n, s))  # type: ignore[return-value]


Maps = Callable[[Case], tuple[Tensor, Tensor] | Tensor]


def scored(data: CausalShapes, engine: Engine, maps: Maps) -> dict[str, dict[str, float | None]]:
    metrics = [
        CausalAuroc(name="n", side="necessity"),
        CausalAuroc(name="s", side="sufficiency"),
        PairAccuracy(),
        CalibrationError(),
    ]
    found: dict[str, dict[str, float | None]] = {}
    for case in cases(data, engine)[:5]:
        given = maps(case)
        if isinstance(given, tuple):
            case.necessity, case.sufficiency = given
        else:
            case.saliency = given
        assert case.causes is not None
        found[case.causes.rule] = {m.name: m.measure(case) for m in metrics}
    return found


def test_true_maps_have_full_marks(analytic: Engine, colours: CausalShapes) -> None:
    found = scored(colours, analytic, truth_maps)
    assert found["and"] == {"n": 1.0, "s": None, "pair_accuracy": 1.0, "calibration_error": pytest.approx(0, abs=0.01)}
    assert found["or"] == {"n": None, "s": 1.0, "pair_accuracy": 1.0, "calibration_error": pytest.approx(0, abs=0.01)}
    assert found["one"] == {"n": 1.0, "s": 1.0, "pair_accuracy": None, "calibration_error": pytest.approx(0, abs=0.01)}
    swapped = scored(colours, analytic, lambda case: truth_maps(case)[::-1])
    assert [swapped[r]["pair_accuracy"] for r in ("and", "or")] == [0, 0]
    assert swapped["and"]["n"] == 0.5


def test_one_map_cannot_tell_the_sides_apart(analytic: Engine, colours: CausalShapes) -> None:
    found = scored(colours, analytic, lambda case: sum(truth_maps(case)))  # type: ignore[arg-type, return-value]
    assert [found[r]["pair_accuracy"] for r in ("and", "or")] == [0.5, 0.5]
    assert found["and"]["n"] == found["or"]["s"] == 1


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_an_even_map_wins_nothing(analytic: Engine, colours: CausalShapes, level: float) -> None:
    found = scored(colours, analytic, lambda _: torch.full((64, 64), level))
    assert found["and"]["n"] == found["or"]["s"] == 0.5
    assert [found[r]["pair_accuracy"] for r in ("and", "or")] == [0.5, 0.5]
    for rule in ("one", "and", "or", "inhibit"):
        assert found[rule]["calibration_error"] == pytest.approx(0.5, abs=0.01)


def test_another_class_has_no_score(analytic: Engine, colours: CausalShapes) -> None:
    case = cases(colours, analytic)[1]
    case.target = 0
    assert [m.measure(case) for m in (CausalAuroc(), PairAccuracy(), CalibrationError(), FilterAgreement())] == [None] * 4


def test_agreement_by_hand() -> None:
    true = np.array([1.0, 1.0, 0.0, 0.0])
    assert recovery(np.array([0.9, 0.2, 0.5, 0.1]), true) == 0.5
    assert recovery(np.array([0.9, 0.8, 0.5, 0.1]), true) == 1
    assert recovery(np.zeros(4), true) == 0  # ties are decided against the method
    assert recovery(np.zeros(4), np.zeros(4)) is None
    found = np.array([3.0, 1.0, 2.0, 0.0])
    assert rank_agreement(found, true) == pytest.approx(spearmanr(found, true).statistic)
    assert rank_agreement(-found, true) == 0
    assert rank_agreement(np.ones(4), true) == 0
    assert rank_agreement(found, np.ones(4)) is None


def test_evaluate_in_five_lines(tmp_path: Path) -> None:
    def explain(network: torch.nn.Module, image: Tensor, target: int) -> Tensor:
        return image.std(0)  # coloured pixels: shapes, whatever they do

    found = evaluate(explain, world="dev", count=8, root=str(tmp_path))
    assert found["pair_accuracy"]["mean"] == 0.5
    assert 0.7 < found["auroc"]["mean"] < 1
    assert found["auroc"]["n"] == 8


def test_the_command_line(cli: Cli, tmp_path: Path) -> None:
    common = ["dataset=causal_shapes", "dataset.count=5", f"results_dir={tmp_path}"]
    done = cli(*common, "method=suny_filter")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "causal_shapes" / "causal_cnn").glob("suny_filter-*")
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [r["pair_accuracy"] is None for r in records] == [True, False, False, True, True]
    assert all(0 <= r["auroc"] <= 1 for r in records)
    done = cli(*common, "method=ablationcam", "dataset.world=colours", "model=causal_analytic", "metrics=causal_filters")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "causal_shapes" / "causal_analytic").glob("ablationcam-*")
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    # taking channels out one by one finds the parts of an AND, and no part of an OR
    assert records[1]["filter_recovery"] == 1
    assert records[2]["filter_recovery"] == 0


def test_mistakes_are_told(cli: Cli, tmp_path: Path) -> None:
    common = ["dataset=causal_shapes", "dataset.count=5", f"results_dir={tmp_path}"]
    assert "use dataset.world=main or dev" in only_error(cli(*common, "dataset.world=colours"))
    assert "use dataset.world=colours" in only_error(cli(*common, "model=causal_analytic"))
    assert "dataset.size=32" in only_error(cli(*common, "dataset.size=32"))
    assert "not known" in only_error(cli("metrics=causal", "dataset=demo", f"results_dir={tmp_path}"))
