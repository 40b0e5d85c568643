"""The contract of every explainer: a batch of images and classes in, non-negative maps of the image's size out.

An explainer is a :func:`~suny.configured.configured` class with a field ``name`` and the method ``explain``; its fields are
the keys of ``conf/method/<name>.yaml``. Maps are raw: in the method's own units, not normalised. An image's map does not
depend on its batch mates; what is random is drawn from the image's own seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as nnf

from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.classifiers.split import without_layer
from suny.configured import place_of
from suny.errors import UserError

# A method's family says what it is compared with.
Family = Literal["own", "baseline", "control"]

# The flag of a map that is 0 everywhere.
EMPTY = "the map is empty"

# The maps of an explanation that lie pixel by pixel, by their names.
SIDES = ("saliency", "necessity", "sufficiency")
ERRORS = ("n_error", "s_error")


@dataclass
class Explanation:
    """Maps of a batch, float32 (B, H, W), finite or not as the method made them, on the engine's device.

    Args:
        saliency: the one map that the metrics use, >= 0.
        necessity, sufficiency: the two sides, >= 0, in common units; None for methods with one map.
        diagnostics: for each image, numbers about the explanation that go into its record.
        channels: N and S value of every channel of the target layer, (B, 2, C), for methods that value channels by switching
            them off; those with one value per channel give it twice.
        n_error, s_error: the posterior standard deviation of each side's map, in its unit, >= 0, for methods that know it: a
            value lies within 1.96 of them with a probability of 95%.
    """

    saliency: Tensor
    necessity: Tensor | None = None
    sufficiency: Tensor | None = None
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    channels: Tensor | None = None
    n_error: Tensor | None = None
    s_error: Tensor | None = None


@runtime_checkable
class Explainer(Protocol):
    """Anything with a name that explains; its class may say its ``family`` (:func:`family_of`) and whether it
    ``needs_layer`` (:func:`refuse_without_layer`)."""

    @property
    def name(self) -> str: ...

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch.

        Args:
            engine: runs the network.
            images: normalised, (B, 3, H, W), on the engine's device.
            targets: class indices (B,).
            seeds: one per image.
        """
        ...


def explained(explainer: Explainer, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
    """The explanation of a batch (:meth:`Explainer.explain`), with the contract of explainers checked.

    Values that are not finite are no break of it: such a map is recorded, and counted as degenerate.

    Raises:
        UserError: what came back is no explanation of the batch: metrics would give numbers that mean nothing.
    """
    explanation = explainer.explain(engine, images, targets, seeds)
    wrong = _wrong(explanation, images)
    if wrong:
        raise UserError(
            f"method '{explainer.name}' returned {wrong}; an explainer returns float32 maps (B, H, W) of the images' size, "
            f">= 0, on their device: {place_of(type(explainer))}."
        )
    graphs = {
        side: maps.detach()
        for side in (*SIDES, *ERRORS)
        if (maps := getattr(explanation, side)) is not None and maps.requires_grad
    }
    return replace(explanation, **graphs) if graphs else explanation


def _wrong(explanation: Any, images: Tensor) -> str:
    """What breaks the contract of explainers, or nothing."""
    if not isinstance(explanation, Explanation):
        return f"a {type(explanation).__name__}, no suny.explanation.Explanation"
    shape = (len(images), *images.shape[-2:])
    for side in (*SIDES, *ERRORS):
        maps = getattr(explanation, side)
        if maps is None and side != "saliency":
            continue
        if not isinstance(maps, Tensor):
            return f"a {side} map of {type(maps).__name__}, no tensor"
        if maps.dtype != torch.float32 or tuple(maps.shape) != shape:
            return f"a {side} map of {maps.dtype}, shape {tuple(maps.shape)}, not torch.float32, shape {shape}"
        if maps.device != images.device:
            return f"a {side} map on {maps.device}, not on {images.device}"
        if bool((maps < 0).any()):
            return f"a {side} map with negative values (smallest {float(maps[maps < 0].min()):g})"
    if explanation.diagnostics and len(explanation.diagnostics) != len(images):
        return f"{len(explanation.diagnostics)} diagnostics for {len(images)} images"
    return ""


def family_of(explainer: type) -> Family:
    """The family of a class of explainers: a baseline, unless its attribute ``family`` says otherwise."""
    return getattr(explainer, "family", "baseline")


def refuse_without_layer(explainer: Explainer, classifier: Classifier) -> None:
    """Raises UserError for a network without a target layer and a method whose attribute ``needs_layer`` says it needs one.

    Other methods find out when they ask the engine for it.
    """
    if classifier.target_layer is None and getattr(explainer, "needs_layer", False):
        raise UserError(f"method={explainer.name} needs a target layer: {without_layer(classifier.no_layer)}")


class MissingMap(Exception):
    """A stored map that is not there, or has no shape of a map."""


@runtime_checkable
class StoredMaps(Protocol):
    """An explainer whose maps are files: it is asked by image, and never runs a network."""

    @property
    def two_sided(self) -> bool:
        """Whether the files hold a map for each side too."""
        ...

    def load(self, image: str, like: Tensor) -> Explanation:
        """The maps of one image, as a batch of one.

        Args:
            image: its id.
            like: the network's input (3, H, W): the size and device of the maps.

        Raises:
            MissingMap: there is none, or it is misshapen.
        """
        ...

    def digest(self, images: Sequence[str]) -> str:
        """SHA-256 of the files' content, which enters the cell's hash."""
        ...


def is_degenerate(saliency: Tensor) -> bool:
    """Whether a map (H, W) says nothing: it is constant, or a value is not finite."""
    return not bool(torch.isfinite(saliency).all()) or bool(saliency.max() == saliency.min())


def with_empty_flag(explanation: Explanation) -> Explanation:
    """The explanation of one image, with a flag where its map is 0 everywhere, whatever else its method says of it."""
    if bool((explanation.saliency[0] != 0).any()):
        return explanation
    numbers = explanation.diagnostics[0] if explanation.diagnostics else {}
    flags = [*numbers.get("flags", []), EMPTY]
    return replace(explanation, diagnostics=[{**numbers, "flags": flags}, *explanation.diagnostics[1:]])


def min_max(maps: Tensor) -> Tensor:
    """Each of the maps (N, H, W) to [0, 1]; a constant one to 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))


def upsample(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear upsampling (align_corners False) of maps (N, h, w) to (N, H, W), ``size`` being (H, W)."""
    return nnf.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
