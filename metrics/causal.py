"""Scores against known causes: does an explanation find the necessary and the sufficient, and tell the two apart?

For images whose causes are known (:mod:`suny.images.known_causes`). A method with one map is judged as if it were both its
necessity and its sufficiency map. An image that the network takes for another class than its own has no score: its
causes are those of its own class.

In your own code, for any explainer of any kind:

    from metrics.causal import evaluate

    def explain(network, image, target):  # the torch network, a normalised image (3, H, W), its class
        return necessity, sufficiency     # maps (H, W), >= 0; or one map

    print(evaluate(explain))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from metrics.base import BaseMetric, Case, NotFinite, Side
from metrics.statistics import mean_interval
from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.games.estimators import EXACT_LIMIT, Game
from suny.games.values import all_coalitions, semivalues
from suny.images.decode import decode
from suny.images.known_causes import EFFECT, KnownCauses
from suny.interventions.causes import FilterCauses
from suny.later import Later

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")

Floats = NDArray[np.float64]
_SIDES: tuple[Side, Side] = ("necessity", "sufficiency")


def causes_of(case: Case) -> KnownCauses | None:
    """The known causes of the explained class; None where they are of another class."""
    return case.causes if case.causes is not None and case.causes.label == case.target else None


def side_map(case: Case, side: Side) -> Tensor:
    """The map of a side, or the only one there is."""
    return case.map(side if case.has(side) else "saliency")


def auroc(values: Floats, positive: NDArray[np.bool_]) -> float | None:
    """The share of pairs of a positive and a negative in which the positive has the larger value; ties count half.

    Args:
        values, positive: they have one length.

    Returns: in [0, 1]; None where one of the two kinds is missing.
    """
    n = int(positive.sum())
    if n in (0, len(positive)):
        return None
    return float((stats.rankdata(values)[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


@configured
class CausalAuroc(BaseMetric):
    """AUROC of a map: pixels of the shapes that are necessary (sufficient, or matter at all) against all other pixels.

    Images without such a shape have no value.

    Args:
        name: the key in records and tables.
        side: the map of ``necessity`` is scored on necessary shapes, that of ``sufficiency`` on sufficient ones, and
            ``saliency`` on those that matter in any company.
    """

    higher_is_better = True
    unit = "share of pairs of pixels"
    reference = "definition: metrics/causal.py"
    needs = frozenset({"causes"})

    name: str = "auroc"
    side: Side = "saliency"

    @property
    def label(self) -> str:
        return {"necessity": "AUROC N", "sufficiency": "AUROC S", "saliency": "AUROC"}[self.side]

    def measure(self, case: Case) -> float | None:
        causes = causes_of(case)
        if causes is None:
            return None
        effects = {"necessity": causes.necessity, "sufficiency": causes.sufficiency, "saliency": causes.matters}[self.side]
        chosen = torch.from_numpy(np.asarray(effects) >= EFFECT).to(causes.masks.device)
        positive = causes.masks[chosen].any(0)
        values = side_map(case, self.side).double().flatten().cpu().numpy()
        return auroc(values, positive.flatten().cpu().numpy())


@configured
class PairAccuracy(BaseMetric):
    """Whether the parts of an AND have the larger necessity, and those of an OR the larger sufficiency.

    A part is right where the mean of the right map over its pixels is larger than that of the other map; equal means count
    half. The image's value is the share of its right parts. A method with one map has .5, and so has an empty map. Only
    images of the two rules have a value.
    """

    name = "pair_accuracy"
    higher_is_better = True
    unit = "share of parts"
    reference = "definition: metrics/causal.py"
    needs = frozenset({"causes"})

    def measure(self, case: Case) -> float | None:
        causes = causes_of(case)
        if causes is None or causes.rule not in ("and", "or"):
            return None
        parts = np.flatnonzero(causes.matters)
        n, s = (attributed_effects(case, causes, side)[parts] for side in _SIDES)
        right, wrong = (n, s) if causes.rule == "and" else (s, n)
        return float(np.mean((right > wrong) + 0.5 * (right == wrong)))


@configured
class CalibrationError(BaseMetric):
    """Mean absolute error between attributed and true effects of the shapes, on both sides.

    Attributed: the mean of the side's map over the shape's pixels, as a fraction of the larger maximum of the two maps. True:
    E_N and E_S of the shape, measured by erasing it, and everything else, in the network that is explained; clipped to
    [0, 1]. Effects of at least .5 and smaller ones are averaged apart, then together: a map that is the same everywhere, 0
    included, has .5. An image without effects of one of the two kinds has no value. It costs two forwards per shape.
    """

    name = "calibration_error"
    higher_is_better = False
    unit = "p(I)"
    reference = "definition: metrics/causal.py"
    needs = frozenset({"causes"})

    def measure(self, case: Case) -> float | None:
        causes = causes_of(case)
        if causes is None or causes.count == 0 or case.p <= 0:
            return None
        true = np.concatenate(case.once("true effects", lambda: true_effects(case, causes)))
        top = max(float(side_map(case, side).max()) for side in _SIDES)
        attributed = np.concatenate([attributed_effects(case, causes, side) for side in _SIDES]) / (top if top > 0 else 1.0)
        strong = true >= EFFECT
        if strong.all() or not strong.any():
            return None
        error = np.abs(attributed - true)
        return float(error[strong].mean() + error[~strong].mean()) / 2


def attributed_effects(case: Case, causes: KnownCauses, side: Side) -> Floats:
    """Mean of a side's map over each shape's pixels, (n,); 0 for a shape without pixels."""
    values, masks = side_map(case, side).double(), causes.masks.double()
    return (torch.einsum("nhw,hw->n", masks, values) / masks.sum((1, 2)).clamp(min=1)).cpu().numpy()


def true_effects(case: Case, causes: KnownCauses) -> tuple[Floats, Floats]:
    """E_N and E_S of each shape alone in the network, clipped to [0, 1], (n,) each; E_S from the bare background upwards."""
    one = np.eye(causes.count, dtype=bool)
    rows = np.concatenate([~one, one, np.zeros((1, causes.count), dtype=bool)])
    p = case.score(len(rows), lambda batch: causes.intervene(rows[batch])).cpu().numpy() / case.p
    erased, kept, empty = np.split(p, [causes.count, 2 * causes.count])
    return np.clip(1 - erased, 0, 1), np.clip(kept - empty, 0, 1)


@configured
class FilterAgreement(BaseMetric):
    """How well a method's values of the channels agree with those found by enumerating all coalitions of channels.

    It is for layers of at most 16 channels and methods that value channels by switching them off. The number is the mean of
    both sides; a side on which all channels have the same true value is left out.

    Args:
        name: the key in records and tables.
        score: ``rank``: Spearman correlation over the channels, negative ones as 0; ``recovery``: of the channels whose true
            value is at least .25, the share among as many of the method's highest, ties decided against the method.
        b: the true values are single effects (necessary or sufficient by themselves) for inf, Shapley values for 1, where
            the two sides are the same.
    """

    higher_is_better = True
    reference = "definition: metrics/causal.py"
    needs = frozenset({"causes", "channels"})

    name: str = "filter_rank"
    score: Literal["rank", "recovery"] = "rank"
    b: Annotated[float, Field(gt=0)] = float("inf")

    @property
    def unit(self) -> str:
        return "rank correlation" if self.score == "rank" else "share of channels"

    def measure(self, case: Case) -> float | None:
        if causes_of(case) is None or case.channels is None or case.channels.shape[1] > EXACT_LIMIT or case.p <= 0:
            return None
        games = case.once("channel games", lambda: channel_tables(case))
        score = rank_agreement if self.score == "rank" else recovery
        scores = [
            score(values, np.round(semivalues(table, self.b), 6))
            for values, table in zip(case.channels.double().cpu().numpy(), games, strict=True)
        ]
        defined = [x for x in scores if x is not None]
        return float(np.mean(defined)) if defined else None


def channel_tables(case: Case) -> tuple[Floats, Floats]:
    """The necessity and the sufficiency game over all channels of the target layer, 2^C values each."""
    activation, carried = case.engine.activations(case.image[None])
    count = activation.shape[1]
    everyone = torch.eye(count, dtype=torch.bool, device=activation.device)
    filters = FilterCauses(case.engine, activation[0], carried, case.target, (1, 1), everyone)
    players = torch.arange(count, device=activation.device)
    game = Game(count, lambda rows: filters.kept(players, torch.from_numpy(rows).to(players.device)).double().cpu().numpy())
    kept = game(all_coalitions(count)) / case.p
    if not np.isfinite(kept).all():
        raise NotFinite("the network returns NaN with some channels switched off")
    return 1 - kept[::-1], kept  # keeping the others is removing a coalition


def rank_agreement(values: Floats, true: Floats) -> float | None:
    """Spearman correlation, negative ones as 0; 0 where the method gives all channels the same, None where the truth does."""
    if np.ptp(true) == 0:
        return None
    return max(float(stats.spearmanr(values, true).statistic), 0.0) if np.ptp(values) > 0 else 0.0


def recovery(values: Floats, true: Floats, threshold: float = 0.25) -> float | None:
    """Share of the channels that are at least the threshold among as many of the highest; None where there are none."""
    wanted = true >= threshold
    if not wanted.any():
        return None
    order = np.lexsort((wanted, -values))  # among equals, those that are not wanted come first
    return float(wanted[order[: wanted.sum()]].mean())


Explain = Callable[[nn.Module, Tensor, int], Tensor | tuple[Tensor, Tensor]]


def evaluate(
    explain: Explain, *, world: str = "main", count: int = 200, seed: int = 0, root: str = "results/runs/.data"
) -> dict[str, Any]:
    """Scores an explainer on generated images with known causes: AUROC, AUROC N, AUROC S, pair accuracy, calibration error.

    Args:
        explain: (network, normalised image (3, 64, 64), class) -> one map (64, 64), or necessity and sufficiency maps; >= 0.
        world: ``main`` or ``dev`` (trained network), ``colours`` (the network written down by hand).
        count, seed: the images' number and seed.
        root: the folder below which the images are written.

    Returns: by metric: mean, ci95, n.
    """
    from suny.classifiers.causal_networks import CausalAnalytic, CausalCnn
    from suny.images.causal_shapes import CausalShapes

    data = CausalShapes(name="causal_shapes", root=root, world=world, count=count, generator_seed=seed)  # type: ignore[arg-type]
    model = CausalAnalytic(name="causal_analytic") if world == "colours" else CausalCnn(name="causal_cnn", world=world)  # type: ignore[arg-type]
    classifier = model.build()
    engine = Engine.of(classifier)
    metrics: list[Any] = [
        CausalAuroc(),
        CausalAuroc(name="auroc_n", side="necessity"),
        CausalAuroc(name="auroc_s", side="sufficiency"),
        PairAccuracy(),
        CalibrationError(),
    ]
    values: dict[str, list[float]] = {m.name: [] for m in metrics}
    for sample in data.load().samples:
        image = classifier.view(decode(sample.path).image)
        target = int(engine.probabilities(image[None]).argmax())
        maps = explain(classifier.network, image, target)
        n, s = maps if isinstance(maps, Sequence) else (maps, maps)
        causes = data.known_causes(sample, classifier.view)
        case = Case(engine, image, target, (n + s) / 2, necessity=n, sufficiency=s, causes=causes)
        for metric in metrics:
            value = metric.measure(case)
            if value is not None:
                values[metric.name].append(value)
    return {name: mean_interval(numbers) for name, numbers in values.items()}
