"""Any maps, of any tool, by every metric of the benchmark: one row for each image, means with intervals, two methods compared.

The numbers are those of the command line for the same maps, images and settings. The metrics are a package over this one, so
they are imported where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from suny import choices, explanation
from suny.api import Boxes, Explanation, Opened, bar_over, checked_ids, opened
from suny.classifiers.engine import BatchSize, Engine, Precision
from suny.classifiers.layers import Reshape
from suny.classifiers.outputs import OutputKind
from suny.errors import UserError
from suny.explanation import StoredMaps, is_degenerate
from suny.images.geometry import Box
from suny.seeds import image_seed

if TYPE_CHECKING:
    import pandas as pd

    from metrics.base import Case, Metric

# columns of a frame that are no metric's
_BESIDE = ("target", "prob", "label", "status")

# how what a metric needs can be given; what is not here is known of a data set alone
_GIVEN = {
    "boxes": "give boxes=",
    "masks": "give masks=",
    "sides": "give an explanation with necessity and sufficiency maps",
    "explain": "give the explanation of suny.explain, which can be repeated",
}


def score(
    model: nn.Module,
    images: Tensor,
    maps: Any,
    metrics: str | Sequence[str | Metric] = ("deletion", "insertion"),
    targets: Any = None,
    boxes: Boxes | None = None,
    *,
    masks: Any = None,
    target_layer: str | None = None,
    labels: Sequence[Any] | None = None,
    ids: Sequence[str] | None = None,
    points: int | None = None,
    seed: int | None = None,
    batch_size: BatchSize = None,
    precision: Precision = "float32",
    output: OutputKind | None = None,
    reshape: Reshape | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Scores maps, of this package or of any other tool.

    Args:
        model: maps (B, C, H, W), normalised, to class values.
        images: as the network takes them, float (B, 3, H, W).
        maps: what :func:`suny.explain` returned, or a tensor or array (B, h, w) of other maps: one of another size is upsampled
            bilinearly, one with negative values is shifted to start at 0, which keeps its order.
        metrics: names of :func:`suny.metrics`, or of lists in ``conf/metrics`` (``default``), of which the metrics are left out
            that need what is not given; or metrics of your own.
        targets: the explained classes, an index for each image or one for all; None: the explanation's, or the predicted ones.
        boxes: for each image the boxes of the object as edges (x0, y0, x1, y1) in pixels of the image.
        masks: for each image which of its pixels belong to the object, a bool tensor or array (B, H, W).
        target_layer: where the network is cut (a metric hardly ever asks); None: the explanation's, or the last feature map.
        labels: the class of each image, for metrics that are means over classes.
        ids: of the images; None: the explanation's, or "0", "1", ...
        points: of the deletion and insertion curves; None: 29.
        seed: of what metrics draw; None: the explanation's, or 0.
        batch_size, precision: of the passes.
        output: what the network's outputs are (:mod:`suny.classifiers.outputs`); None: the explanation's, or ``auto``.
        reshape: ``tokens``: the target layer may return tokens; None: the explanation's.
        progress: show a bar where it takes longer than two seconds.

    Returns: a row for each image (its id is the index): ``target``, ``prob`` (p_c of the image), ``label``, ``status``
        (``degenerate``: the map is the same everywhere, or not finite), and a column for each metric; NaN or None where it is
        not defined.

    Raises:
        UserError: maps, images or classes that do not fit, an unknown metric, or one that needs what is not given.

    >>> import torch, suny
    >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    >>> model = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 2))
    >>> images = torch.rand(3, 3, 32, 32)
    >>> found = suny.score(model, images, torch.rand(3, 32, 32), points=5)  # maps of another tool
    >>> found.shape, list(found.columns)
    ((3, 6), ['target', 'prob', 'label', 'status', 'deletion', 'insertion'])
    """
    import pandas as pd

    explained = maps if isinstance(maps, Explanation) else None
    if explained is not None:
        targets = explained.targets if targets is None else targets
        ids = explained.ids if ids is None else ids
        target_layer = target_layer or explained.target_layer
        seed = explained.seed if seed is None else seed
        output = explained.output if output is None else output
        reshape = explained.reshape if reshape is None else reshape
    prepared = opened(model, images, target_layer, batch_size, precision, "auto" if output is None else output, reshape)
    count = len(prepared.images)
    chosen = _chosen(metrics, points, seed or 0, explained, boxes is not None, masks is not None)
    sides = _fitted(maps, prepared.images)
    names = checked_ids(ids, count)
    for what, given in (("boxes", boxes), ("masks", masks), ("labels", labels)):
        if given is not None and len(given) != count:
            raise UserError(f"{what} are {len(given)} for {count} images: give one entry for each image.")
    inside = None if masks is None else _masks(masks, prepared.images)
    classes = None if targets is None else prepared.classes(targets)
    rows = []
    with torch.no_grad(), bar_over(count, "scores", progress) as bar:
        for at, name in enumerate(names):
            own = {side: batch[at] for side, batch in sides.items()}
            around = _boxes(boxes[at], prepared.images) if boxes else []
            truth = (around, None if inside is None else inside[at])
            target = None if classes is None else classes[at]
            one = partial(_row, prepared, at, name, target, own, truth, image_seed(seed or 0, name), chosen, explained)
            rows.append({**prepared.engine.fitting(one), "label": None if labels is None else labels[at]})
            bar.update()
    frame = pd.DataFrame(rows, index=pd.Index(names, name="image"), columns=[*_BESIDE, *chosen])
    # None in a column of numbers is NaN; values of other kinds (ranges of thresholds, say) stay what they are
    numbers = [name for name in chosen if all(v is None or isinstance(v, Real) for v in frame[name])]
    return frame.astype(dict.fromkeys(numbers, float))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, interval and n of every metric.

    Args:
        frame: of :func:`score`; several can be joined (``pandas.concat``).

    Returns: a row for each metric: ``mean``, ``low`` and ``high`` of the 95% bootstrap interval over images, ``n``, the images
        on which the metric is defined; NaN where there is none. Metrics that are no mean of numbers (MaxBoxAcc, pointing game)
        are summarised as their protocol says.

    >>> import pandas as pd, suny
    >>> frame = pd.DataFrame({"deletion": [0.1, 0.3], "insertion": [0.5, 0.5]}, index=["a", "b"])
    >>> suny.summary(frame).loc["deletion", ["mean", "n"]].tolist()
    [0.2, 2.0]
    """
    import pandas as pd

    from metrics.statistics import mean_interval

    rows = {}
    for name in _metric_columns(frame):
        known = frame[frame[name].notna()]
        summarise = getattr(_metric(name), "summarise", None)
        entry = summarise(known[name].tolist(), _labels(known)) if summarise else mean_interval(_numbers(known[name]))
        rows[name] = _with_bounds(entry, ("mean", "n"))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "n"]).rename_axis("metric")


def compare(frame_a: pd.DataFrame, frame_b: pd.DataFrame) -> pd.DataFrame:
    """Two methods on the images and metrics that both have, image by image: a - b.

    Args:
        frame_a, frame_b: of :func:`score`, with the same ids for the same images.

    Returns: a row for each metric: ``difference`` with ``low`` and ``high`` of its 95% bootstrap interval over images, ``n``,
        ``p`` of Wilcoxon's signed-rank test, two-sided, ``effect``: the rank-biserial correlation, 1 where a is larger on every
        image and -1 where b is, and ``better``, which direction is.

    Raises:
        UserError: no image or no metric in common, or images that were explained for different classes.

    >>> import pandas as pd, suny
    >>> a = pd.DataFrame({"deletion": [0.1, 0.3, 0.2]}, index=["x", "y", "z"])
    >>> b = pd.DataFrame({"deletion": [0.2, 0.5, 0.5]}, index=["x", "y", "z"])
    >>> suny.compare(a, b).loc["deletion", ["n", "p", "effect"]].tolist()
    [3.0, 0.25, -1.0]
    """
    import pandas as pd

    from metrics.statistics import comparable, paired

    for frame in (frame_a, frame_b):
        if not frame.index.is_unique:
            raise UserError("an image is in a frame twice: give each image an id of its own (ids=).")
    common = [image for image in frame_a.index if image in frame_b.index]
    names = [name for name in _metric_columns(frame_a) if name in _metric_columns(frame_b)]
    if not common or not names:
        raise UserError(f"the frames share {len(common)} images and {len(names)} metrics: there is nothing to compare.")
    a, b = frame_a.loc[common], frame_b.loc[common]
    if "target" in a and "target" in b:
        apart = [str(i) for i, one, other in zip(common, a["target"], b["target"], strict=True) if one != other]
        if apart:
            raise UserError(f"{len(apart)} images ({apart[0]}, ...) have another class in each frame: give the same targets=.")
    rows = {}
    for name in names:
        metric = _metric(name)
        columns = [one[name].astype(object).where(one[name].notna(), None).tolist() for one in (a, b)]
        values = comparable(metric, columns, _labels(a))
        if values is None:
            raise UserError(_no_number(name))
        entry = paired(*values)
        better = {True: "higher", False: "lower", None: "neither"}[getattr(metric, "higher_is_better", None)]
        rows[name] = {"difference": entry["mean"], **_with_bounds(entry, ("n", "p", "effect")), "better": better}
    columns = ["difference", "low", "high", "n", "p", "effect", "better"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")


def _row(
    prepared: Opened,
    at: int,
    name: str,
    target: int | None,
    maps: Mapping[str, Tensor],
    truth: tuple[Sequence[Box], Tensor | None],
    seed: int,
    metrics: Mapping[str, Metric],
    explained: Explanation | None,
) -> dict[str, Any]:
    """One image's entries: its class, p_c, status and metrics; ``truth`` are its boxes and its mask."""
    from metrics.base import Case, Frame

    boxes, mask = truth
    engine, image = prepared.engine, prepared.images[at]
    probabilities = prepared.probabilities(image)
    target = int(probabilities.argmax()) if target is None else target
    clean = {side: torch.nan_to_num(one, nan=0.0, posinf=0.0, neginf=0.0) for side, one in maps.items()}
    explainer = explained.explainer if explained is not None else None

    def again(other: Engine, other_seed: int) -> Tensor:
        assert explainer is not None
        found = explanation.explained(explainer, other, image[None], torch.tensor([target]), [other_seed]).saliency
        return torch.nan_to_num(found[0], nan=0.0, posinf=0.0, neginf=0.0)

    case = Case(
        engine,
        image,
        target,
        clean["saliency"],
        necessity=clean.get("necessity"),
        sufficiency=clean.get("sufficiency"),
        boxes=boxes,
        mask=mask,
        # Only the view is known here, and not the upright image that it was cut from: places stay as they are.
        frame=Frame(boxes, lambda x, y: (x, y), None if mask is None else mask.cpu().numpy()),
        clean=float(probabilities[target]),
        seed=seed,
        explain=None if explainer is None or isinstance(explainer, StoredMaps) else again,
    )
    return {
        "target": target,
        "prob": case.p,
        "status": "degenerate" if is_degenerate(maps["saliency"]) else "ok",
        **{key: _measured(metric, case, name) for key, metric in metrics.items()},
    }


def _measured(metric: Metric, case: Case, image: str) -> Any:
    """The value; None where it is not defined, or where the network returned NaN for changed images."""
    from metrics.base import measure

    value = measure(metric, case, image)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _chosen(
    metrics: str | Sequence[str | Metric],
    points: int | None,
    seed: int,
    explained: Explanation | None,
    boxes: bool,
    masks: bool,
) -> dict[str, Metric]:
    """The metrics by name; ``boxes`` and ``masks``: whether they are given.

    Raises:
        UserError: an unknown one, or one that needs what is not given.
    """
    given = {
        "boxes": boxes,
        "masks": masks,
        "sides": explained is not None and explained.necessity is not None,
        "explain": explained is not None and explained.explainer is not None,
    }
    found: dict[str, Metric] = {}
    for one in [metrics] if isinstance(metrics, str) else metrics:
        choice = choices.metric_choice(one, points, seed) if isinstance(one, str) else {one.name: one}
        lacking = {name: [need for need in sorted(metric.needs) if not given.get(need)] for name, metric in choice.items()}
        able = {name: metric for name, metric in choice.items() if not lacking[name]}
        if not able:
            name, needs = next(iter(lacking.items()))
            how = _GIVEN.get(needs[0], "only data sets of the command line have them")
            raise UserError(f"metrics: {name} needs {', '.join(needs)}: {how}.")
        found |= able
    if not found:
        raise UserError("metrics: choose at least one; suny.metrics() lists them.")
    return found


def _fitted(maps: Any, images: Tensor) -> dict[str, Tensor]:
    """Maps by side, each (B, H, W) of the images' size and on their device, >= 0."""
    from baselines.precomputed import fitted

    batch = {"saliency": maps}
    if isinstance(maps, Explanation):
        batch = {side: value for side in ("saliency", "necessity", "sufficiency") if (value := getattr(maps, side)) is not None}
    found = {}
    for side, values in batch.items():
        array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.ndim == 4 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 3 or len(array) != len(images) or array.size == 0 or array.dtype.kind not in "fiub":
            raise UserError(
                f"maps have the shape {array.shape} of {array.dtype} for {len(images)} images: give (B, h, w), one for each."
            )
        found[side] = torch.cat([fitted(one, images) for one in array])
    return found


def _boxes(edges: Sequence[Sequence[float]], images: Tensor) -> list[Box]:
    """Boxes clipped to the images; those without area are left out."""
    height, width = images.shape[-2:]
    for one in edges:
        if len(one) != 4:
            raise UserError(f"boxes: {list(one)} is no box: give edges (x0, y0, x1, y1) in pixels of the image.")
    boxes = [Box(*(float(edge) for edge in one)).clip(width, height) for one in edges]
    return [box for box in boxes if box.area > 0]


def _masks(masks: Any, images: Tensor) -> Tensor:
    """Masks as a bool tensor (B, H, W) on the images' device."""
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    wanted = (len(images), *images.shape[-2:])
    if array.shape != wanted or not (array.dtype == bool or np.isin(array, (0, 1)).all()):
        raise UserError(f"masks have the shape {array.shape} of {array.dtype}: give {wanted}, True where the object is.")
    return torch.from_numpy(array.astype(bool)).to(images.device)


def _metric(name: str) -> Metric | None:
    """The metric behind a column; None of a metric that is not this project's."""
    try:
        return choices.metric_choice(name).get(name)
    except UserError:
        return None


def _metric_columns(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name not in _BESIDE]


def _labels(frame: pd.DataFrame) -> list[Any]:
    return frame["label"].tolist() if "label" in frame else [None] * len(frame)


def _numbers(column: pd.Series) -> list[float]:
    if any(not isinstance(v, Real) for v in column):
        raise UserError(_no_number(column.name))
    return column.astype(float).tolist()


def _no_number(name: Any) -> str:
    return f"{name} holds values that are no numbers, and is no metric of suny.metrics()."


def _with_bounds(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Some keys of an entry, and its interval as ``low`` and ``high``; NaN where there is no value."""
    low, high = entry["ci95"]
    found = {**{key: entry[key] for key in keys}, "low": low, "high": high}
    return {key: math.nan if value is None else value for key, value in found.items()}
