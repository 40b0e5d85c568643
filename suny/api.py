"""Every method of the benchmark for any torch classifier, without configuration files or data sets.

import suny
explanation = suny.explain(model, images, method="gradcam")
explanation.saliency            # (B, H, W)
explanation.plot()
suny.score(model, images, explanation)

The maps are those of the command line with the same method, settings, seed and image ids, bit for bit on a CPU.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from suny import choices, entry, explanation
from suny.bivariate import Colours
from suny.classifiers.engine import BatchSize, Cost, Engine, Precision
from suny.classifiers.layers import Reshape
from suny.classifiers.outputs import OutputKind, checked_kind
from suny.errors import UserError
from suny.explanation import ERRORS, SIDES, is_degenerate
from suny.seeds import image_seed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# prepared copies of a network, one for each layer, image size and device
_KEPT = 4
# images that a picture shows unless it is asked for more
_SHOWN = 8
# seconds after which progress is shown
_LONG = 2.0
# seconds an image below which several are explained in one call
_QUICK = 0.1

Boxes = Sequence[Sequence[Sequence[float]]]


@dataclass(eq=False, kw_only=True, repr=False)
class Explanation(explanation.Explanation):
    """Maps of a batch with what they explain, on the device of the images, without gradients.

    Args:
        saliency: the one map that metrics use, float32 (B, H, W), >= 0, in the method's own unit.
        necessity, sufficiency: the two sides in common units; None for methods with one map.
        diagnostics: for each image, numbers about its explanation: of SUNY the values of the players, what all of them together
            do, the flags.
        channels: N and S value of every channel, (B, 2, C), of methods that value channels.
        n_error, s_error: posterior standard deviations of the two sides, (B, H, W), in their unit, of methods that know them.
        images: what was explained, (B, 3, H, W).
        targets: the explained classes, int64 (B,).
        ids: of the images; their seeds follow from them.
        method: its name.
        target_layer: where the network was cut.
        cost: passes through the network that the maps took; those that found the classes are not counted.
        seed: of the run.
        explainer: the method with its settings.
        output, reshape: how the network's outputs and its target layer were read.

    >>> import torch, suny
    >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    >>> model = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 2))
    >>> found = suny.explain(model, torch.rand(2, 3, 32, 32), targets=1, method="suny", k=2)
    >>> found.method, len(found), found.cost.forwards > 0
    ('suny', 2, True)
    >>> found[0].numpy()["necessity"].shape
    (1, 32, 32)
    >>> list(found.values(0).columns)
    ['side', 'player', 'value', 'single']
    """

    images: Tensor
    targets: Tensor
    ids: list[str]
    method: str
    target_layer: str | None
    cost: Cost
    seed: int = 0
    explainer: explanation.Explainer | None = field(default=None)
    output: OutputKind = "auto"
    reshape: Reshape | None = None

    def __len__(self) -> int:
        return len(self.saliency)

    def __getitem__(self, index: int | slice) -> Explanation:
        """The explanation of one image, or of several; ``cost`` stays that of the batch."""
        if isinstance(index, int):
            index = range(len(self))[index]
        part = slice(index, index + 1) if isinstance(index, int) else index
        cut: Any = {
            one.name: value[part] for one in fields(self) if isinstance(value := getattr(self, one.name), Tensor | list)
        }
        return replace(self, **cut)

    def __repr__(self) -> str:
        height, width = self.saliency.shape[-2:]
        maps = "one map" if self.necessity is None else "necessity and sufficiency"
        passes = {"forwards": self.cost.forwards, "of the tail": self.cost.tail_forwards, "backwards": self.cost.backwards}
        cost = ", ".join(f"{count} {name}" for name, count in passes.items() if count) or "no pass"
        flagged = sum(bool(flags) for flags in self.flags)
        said = f"Explanation of {len(self)} images of {height} x {width} by {self.method}: {maps}, {cost}"
        return f"{said}, {flagged} with flags" if flagged else said

    @property
    def flags(self) -> list[list[str]]:
        """What a reader must know of each explanation; nothing for most."""
        own = [list(one.get("flags", [])) for one in self.diagnostics]
        return [
            [*flags, *(["the map is the same everywhere, or not finite"] if is_degenerate(saliency) else [])]
            for flags, saliency in zip(own, self.saliency, strict=True)
        ]

    def values(self, image: int = 0) -> pd.DataFrame:
        """SUNY's value of every player of one image, the largest first on each side.

        Args:
            image: its place in the batch.

        Returns: ``side`` (N, S), ``player`` (channel, group or region), ``value`` and ``single`` effect, fractions of p_c(I);
            no rows for methods without players, and where there are so many that they are not listed.
        """
        import pandas as pd

        said = self.diagnostics[image]
        keys = ("candidates", "values", "singles")
        rows = [
            (side, *row)
            for side in ("N", "S")
            for row in sorted(zip(*(said.get(f"{side.lower()}_{key}", []) for key in keys), strict=True), key=lambda r: -r[1])
        ]
        return pd.DataFrame(rows, columns=["side", "player", "value", "single"])

    def numpy(self) -> dict[str, NDArray[np.float32]]:
        """The maps as arrays (B, H, W) by name; those that the method does not have are left out."""
        maps = {name: getattr(self, name) for name in (*SIDES, *ERRORS)}
        return {name: value.cpu().numpy() for name, value in maps.items() if value is not None}

    def plot(
        self,
        photos: Sequence[Any] | None = None,
        boxes: Boxes | None = None,
        names: Sequence[str] | None = None,
        limit: int = _SHOWN,
        colours: Colours = "even",
    ) -> Figure:
        """A line of pictures for each image: the input, N, S, both with the colour square, and the overlay.

        N and S are on one scale, for they share a unit. Of methods with one map that map is drawn. Where a method knows the
        errors of its maps, a line surrounds what is above 0 with 95% certainty.

        Args:
            photos: what the network sees, each a PIL image or an array (H, W, 3) of 0..255 or of [0, 1]; None: the images,
                their own range stretched to black and white.
            boxes: for each image its boxes as edges (x0, y0, x1, y1) in its pixels.
            names: of the classes; captions have them.
            limit: images at most.
            colours: of the two sides: ``even``, from cyan to orange; ``published``, from blue to orange.

        Returns: a matplotlib figure, which notebooks show; ``figure.savefig(...)`` writes it.

        Raises:
            UserError: another number of photos or boxes than of images; colours that are neither.
        """
        from suny import plots

        if colours not in get_args(Colours):
            raise UserError(f"colours={colours!r} are unknown. Valid: {', '.join(get_args(Colours))}.")
        for what, given in (("photos", photos), ("boxes", boxes)):
            if given is not None and len(given) != len(self):
                raise UserError(f"{what} are {len(given)} for {len(self)} images: give one entry for each image.")
        count = min(limit, len(self))
        arrays = {name: maps[:count] for name, maps in self.numpy().items()}
        pictures = (
            [plots.stretched(image.cpu().numpy()) for image in self.images[:count]]
            if photos is None
            else [_picture(photo) for photo in photos[:count]]
        )
        rows = [
            plots.panels(picture, **{name: arrays[name][at] if name in arrays else None for name in SIDES}, colours=colours)  # type: ignore[arg-type]
            for at, picture in enumerate(pictures)
        ]
        certain = [plots.certain({name: maps[at] for name, maps in arrays.items()}) for at in range(count)]
        classes = [names[c] if names is not None else f"class {c}" for c in self.targets[:count].tolist()]
        captions = [
            "\n".join([f"{name}: {what}, {self.method}", *(["flags: " + "; ".join(flags)] if flags else [])])
            for name, what, flags in zip(self.ids, classes, self.flags, strict=False)
        ]
        around = [[(float(a), float(b), float(c), float(d)) for a, b, c, d in one] for one in boxes[:count]] if boxes else []
        return plots.draw(rows, captions, around or [[]] * count, certain, colours)

    def save(self, path: str | os.PathLike[str], **arguments: Any) -> Path:
        """Writes the picture (.png, .pdf, .svg), or the maps as arrays (.npz: the maps, ``targets``, ``ids``).

        Args:
            path: the file; its folder is made.
            **arguments: of :meth:`plot`.

        Raises:
            UserError: a suffix that is none of these.
        """
        path = Path(path).expanduser()
        if path.suffix not in (".png", ".pdf", ".svg", ".npz"):
            raise UserError(f"cannot save {path}: name a file .png, .pdf or .svg for the picture, or .npz for the maps.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez_compressed(path, **self.numpy(), targets=self.targets.cpu().numpy(), ids=np.array(self.ids))  # type: ignore[arg-type]
        else:
            self.plot(**arguments).savefig(path, dpi=110)
        return path

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        return self.plot()._repr_png_()  # type: ignore[attr-defined]


class Explainer:
    """A method for a network, for many calls.

    The network is copied in evaluation mode when it first meets an image size, so the caller's network keeps its mode,
    hooks and gradients whatever happens. The copies are kept as long as the network itself, for all methods; when its weights
    have changed, a new one is made.

    Args:
        model: maps (B, C, H, W), normalised, to class values (:func:`suny.classifiers.outputs.class_rows`).
        method: a name of :func:`suny.methods`, or an object that explains (:class:`suny.explanation.Explainer`).
        target_layer: name of the submodule with the feature maps; None: the last one that returns some.
        seed: of the run: what is random about an image is drawn from this and the image's id.
        batch_size, precision: of the passes (:class:`suny.classifiers.engine.Engine`).
        output: what the network's outputs are (:mod:`suny.classifiers.outputs`).
        reshape: ``tokens``: the target layer may return tokens, which are put at their places.
        progress: show a bar where it takes longer than two seconds.
        **settings: keys of the method (``conf/method/<method>.yaml``): ``masks`` of RISE, ``k`` of SUNY, ...

    Raises:
        UserError: an unknown method or layer, an unknown or wrong setting.

    >>> import torch, suny
    >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    >>> model = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 2))
    >>> rise = suny.Explainer(model, method="rise", masks=50)
    >>> for images in torch.rand(2, 4, 3, 32, 32):
    ...     print(tuple(rise(images).saliency.shape))
    (4, 32, 32)
    (4, 32, 32)
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | explanation.Explainer = "suny_semi",
        target_layer: str | None = None,
        *,
        seed: int = 0,
        batch_size: BatchSize = None,
        precision: Precision = "float32",
        output: OutputKind = "auto",
        reshape: Reshape | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> None:
        if isinstance(method, str):
            self.explainer = choices.method(method, seed, **settings)
        elif settings:
            raise UserError(f"settings {', '.join(settings)} are given beside a method that has its own: change them there.")
        else:
            self.explainer = method
        self.model = model
        self.target_layer = target_layer
        self.seed = seed
        self.batch_size = batch_size
        self.precision: Precision = precision
        self.output: OutputKind = checked_kind(output)
        self.reshape: Reshape | None = entry.checked_reshape(reshape)
        self.progress = progress

    def __call__(self, images: Tensor, targets: Any = None, ids: Sequence[str] | None = None) -> Explanation:
        """Explains a batch; an image's explanation does not depend on its batch mates.

        Args:
            images: as the network takes them (normalised), float (B, 3, H, W).
            targets: class indices (B,), or one for all; None: the classes that the network predicts.
            ids: of the images, for their seeds; None: "0", "1", ...

        Raises:
            UserError: images or classes of a wrong form, a layer without a feature map, outputs that are not finite.
        """
        prepared = opened(self.model, images, self.target_layer, self.batch_size, self.precision, self.output, self.reshape)
        engine, batch = prepared.engine, prepared.images
        names = checked_ids(ids, len(batch))
        classes = prepared.classes(targets)
        seeds = [image_seed(self.seed, name) for name in names]
        before = engine.cost
        found: list[explanation.Explanation] = []
        diagnostics: list[dict[str, Any]] = []
        step = 1
        with torch.no_grad(), bar_over(len(batch), self.explainer.name, self.progress) as bar:
            while len(diagnostics) < len(batch):
                part = slice(len(diagnostics), min(len(diagnostics) + step, len(batch)))
                several = (batch[part], torch.tensor(classes[part]), seeds[part])
                began = time.perf_counter()
                one = engine.fitting(partial(explanation.explained, self.explainer, engine, *several))
                # one by one, so that progress is seen, unless a call costs more than the image; maps are the same either way
                step = engine.batch_size if time.perf_counter() - began < _QUICK * len(batch[part]) else 1
                found.append(one)
                diagnostics += one.diagnostics or [{} for _ in batch[part]]
                bar.update(len(batch[part]))

        def joined(what: str) -> Tensor | None:
            parts = [getattr(one, what) for one in found]
            return None if any(part is None for part in parts) else torch.cat(parts).to(batch.device)

        saliency = joined("saliency")
        assert saliency is not None
        return Explanation(
            saliency=saliency,
            necessity=joined("necessity"),
            sufficiency=joined("sufficiency"),
            channels=joined("channels"),
            n_error=joined("n_error"),
            s_error=joined("s_error"),
            diagnostics=diagnostics,
            images=batch,
            targets=torch.tensor(classes, device=batch.device),
            ids=names,
            method=self.explainer.name,
            target_layer=engine.target_layer,
            cost=engine.cost - before,
            seed=self.seed,
            explainer=self.explainer,
            output=self.output,
            reshape=self.reshape,
        )


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Any = None,
    method: str | explanation.Explainer = "suny_semi",
    target_layer: str | None = None,
    *,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    batch_size: BatchSize = None,
    precision: Precision = "float32",
    output: OutputKind = "auto",
    reshape: Reshape | None = None,
    progress: bool = True,
    **settings: Any,
) -> Explanation:
    """Explains what a classifier says of some images.

    Args:
        model: maps (B, C, H, W), normalised, to class values; it is copied, never changed.
        images: as the network takes them (normalised), float (B, 3, H, W); the maps lie on their device.
        targets: class indices (B,), or one for all; None: the classes that the network predicts.
        method, target_layer, seed, batch_size, precision, output, reshape, progress, settings: see :class:`Explainer`.
        ids: of the images, for their seeds; None: "0", "1", ...

    Raises:
        UserError: what was given does not fit: one line says what, and what would.

    >>> import torch, suny
    >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    >>> model = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 2))
    >>> images = torch.rand(2, 3, 32, 32)
    >>> suny.explain(model, images, method="gradcam").saliency.shape
    torch.Size([2, 32, 32])
    >>> suny.explain(model, images, targets=[0, 1], method="suny_groups", k=3).necessity.shape
    torch.Size([2, 32, 32])
    """
    made = Explainer(
        model,
        method,
        target_layer,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        output=output,
        reshape=reshape,
        progress=progress,
        **settings,
    )
    return made(images, targets, ids)


def bar_over(count: int, what: str, shown: bool) -> tqdm:
    """A bar over images, which appears where they take long."""
    return tqdm(total=count, desc=what, unit="img", delay=_LONG, disable=not shown, leave=False)


def checked_ids(ids: Sequence[str] | None, count: int) -> list[str]:
    """The ids of the images.

    Raises:
        UserError: another number of them, or two that are the same.
    """
    names = [str(i) for i in (range(count) if ids is None else ids)]
    if len(names) != count or len(set(names)) != count:
        raise UserError(f"ids: {len(set(names))} different ones are given for {count} images: give each image its own.")
    return names


@dataclass(frozen=True)
class Opened:
    """A network that is ready for some images.

    Args:
        engine: at the target layer, on the images' device.
        images: checked, float32 (B, 3, H, W), without gradients.
        outputs: K, how many classes the network has.
    """

    engine: Engine
    images: Tensor
    outputs: int

    def probabilities(self, image: Tensor) -> Tensor:
        """Of all classes, (K,), of one image (3, H, W).

        Raises:
            UserError: they are not finite.
        """
        found = self.engine.probabilities(image[None])[0]
        if not bool(found.isfinite().all()):
            raise UserError(
                "the network returns NaN or infinite outputs: its weights are damaged, or "
                f"precision={self.engine.precision} is too coarse for it."
            )
        return found

    def classes(self, targets: Any) -> list[int]:
        """The class to explain of each image: given, or predicted.

        Raises:
            UserError: another number of classes than of images, or one that the network does not have.
        """
        chosen = entry.checked_targets(targets, len(self.images), self.outputs)
        return [int(self.probabilities(image).argmax()) for image in self.images] if chosen is None else chosen


def opened(
    model: nn.Module,
    images: Tensor,
    target_layer: str | None = None,
    batch_size: BatchSize = None,
    precision: Precision = "float32",
    output: OutputKind = "auto",
    reshape: Reshape | None = None,
    needed: bool = False,
) -> Opened:
    """A prepared copy of a network for some images, kept for the next call, with what came in checked.

    Args:
        model, images, target_layer, batch_size, precision: see :class:`Explainer`.
        output: what the network's outputs are (:mod:`suny.classifiers.outputs`).
        reshape: what the target layer may return beside feature maps.
        needed: whether the method explains a layer at all.

    Raises:
        UserError: no network or images that can be explained, or no such layer.
    """
    network = entry.checked_network(model)
    batch = entry.checked_images(images)
    layer = entry.layer_name(network, target_layer)
    passes = entry.checked_batch_size(batch_size), entry.checked_precision(precision)
    reading = checked_kind(output), entry.checked_reshape(reshape)
    entry.refuse_without_weights(network)
    state = _state_of(network)
    kept = _kept.setdefault(network, {})
    for key in [key for key in kept if key[0] != state]:
        del kept[key]  # the weights have changed since
    key = (state, layer, tuple(batch.shape[1:]), batch.device, *passes, *reading)
    if key not in kept or (needed and kept[key][0].target_layer is None):
        while len(kept) >= _KEPT:
            del kept[next(iter(kept))]
        kept[key] = _prepared(network, layer, batch, *passes, *reading, needed)
    engine, outputs = kept[key]
    return Opened(engine, batch, outputs)


_kept: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[Engine, int]]] = weakref.WeakKeyDictionary()


def _prepared(
    model: nn.Module,
    layer: str | None,
    images: Tensor,
    batch_size: BatchSize,
    precision: Precision,
    output: OutputKind,
    reshape: Reshape | None,
    needed: bool,
) -> tuple[Engine, int]:
    """An engine for images of this shape, and how many classes its network has."""
    network = entry.Network(model, images[:1], output)
    name, layout = network.layer(layer, reshape, needed)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    engine = Engine(
        network.module,
        name,
        size,
        images.device,
        precision,
        batch_size,
        reading=network.reading,
        layout=layout,
        probe=network.probe,
    )
    return engine, network.classes


def _state_of(model: nn.Module) -> tuple[Any, ...]:
    """What tells a network from what it was before: its modules, and a checksum of each of its weights.

    Versions and addresses of tensors would be cheaper, but a change through ``.data`` leaves both as they were.
    """
    tensors = [t.detach() for t in (*model.parameters(), *model.buffers())]
    sums = [_bits(t).sum(dtype=torch.int64).cpu() for t in tensors if t.numel()]
    kinds = tuple(f"{name} {type(module).__qualname__}" for name, module in model.named_modules())
    return kinds, tuple((t.dtype, tuple(t.shape)) for t in tensors), tuple(torch.stack(sums).tolist()) if sums else ()


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's values as integers of its width, bit by bit."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return flat.contiguous().view(widths[flat.element_size()])


def _picture(photo: Any) -> NDArray[np.float64]:
    """A PIL image or an array (H, W, 3) of 0..255 or of [0, 1] as floats in [0, 1]."""
    array = np.asarray(photo)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise UserError(f"photos: one has the shape {array.shape}; give PIL images in RGB, or arrays (H, W, 3).")
    return array.astype(np.float64) / (255.0 if array.dtype.kind in "iu" else 1.0)
