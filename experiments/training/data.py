"""Photographs on their way to the network: decoded by worker processes, stacked as 8-bit pixels, normalised on the device.

What leaves the workers is small and what is kept is bounded by the batch, so a data set of any size passes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from experiments.command.progress import tell
from experiments.store.records import write_atomically, writing
from suny.classifiers.classifier import settings_digest, weights_digest
from suny.classifiers.engine import Engine, batches
from suny.errors import UserError
from suny.images.dataset import ImageList, Sample
from suny.images.decode import UnreadableImage, decode
from suny.images.view import View
from suny.later import Later, import_all
from suny.seeds import image_seed

if TYPE_CHECKING:
    from torchvision import transforms
    from torchvision.transforms import functional as tvf
else:
    transforms = Later("torchvision.transforms")
    tvf = Later("torchvision.transforms.functional")

# images whose outputs are stored at once; a multiple of the batch sizes, so that a continued pass repeats its numbers
_SHARD = 512

# Outputs depend on these too, beside network, images and view: decoders, resizers and kernels.
_PACKAGES = ("torch", "torchvision", "pillow")

_MOST_WORKERS = 8

Key = tuple[int, int]  # epoch, and position in the list
# position, pixels uint8 (3, H, W), and what is wrong where there are none: with the image, or with the system
Item = tuple[int, Tensor | None, UnreadableImage | UserError | None]


class Look(Protocol):
    """What the network is shown of an image."""

    def __call__(self, image: Image.Image, sample: str, epoch: int) -> Image.Image: ...


@dataclass(frozen=True)
class Plain:
    """The network's view, as everywhere else."""

    view: View

    def __call__(self, image: Image.Image, sample: str, epoch: int) -> Image.Image:
        return self.view.visible(image)


@dataclass(frozen=True)
class Augmented:
    """A random part of the image at the network's size, mirrored half of the times.

    An image's draw depends on the seed, its id and the epoch, not on the worker that makes it.

    Args:
        view: of the network.
        scale: smallest and largest share of the image's area.
        seed: of all draws.
    """

    view: View
    scale: tuple[float, float]
    seed: int

    def __call__(self, image: Image.Image, sample: str, epoch: int) -> Image.Image:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(image_seed(self.seed, f"{epoch}:{sample}"))
            top, left, height, width = transforms.RandomResizedCrop.get_params(image, list(self.scale), [3 / 4, 4 / 3])
            mirrored = bool(torch.rand(()) < 0.5)
        size = [self.view.crop, self.view.crop]
        part = tvf.resized_crop(image, top, left, height, width, size, transforms.InterpolationMode(self.view.interpolation))
        return tvf.hflip(part) if mirrored else part


@dataclass(frozen=True)
class _Photographs:
    """A list of images, decoded when they are asked for."""

    samples: Sequence[Sample]
    look: Look

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        epoch, at = key
        sample = self.samples[at]
        try:
            return at, tvf.pil_to_tensor(self.look(decode(sample.path).image, sample.image, epoch)), None
        except (UnreadableImage, UserError) as error:
            return at, None, error  # raised in the worker it would come with the worker's traceback


def photographs(
    samples: Sequence[Sample], look: Look, order: Sequence[Sequence[Key]], workers: int, strict: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images in an order.

    Args:
        samples: of which images are taken.
        look: what is shown of them.
        order: the keys of each batch.
        workers: processes that decode; 0: this one.
        strict: whether an unreadable image ends the program; if not, it is missing from its batch.

    Yields: positions in ``samples``, int64 (n,), and pixels, uint8 (n, 3, H, W).

    Raises:
        UserError: an unreadable image, where ``strict``; a file that the system does not let be read; workers that die.
    """
    import_all()  # once, not in every worker
    loader: Any = DataLoader(
        _Photographs(samples, look),  # type: ignore[arg-type]
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_together,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # without it the loader would draw from the random numbers of the training
    )
    try:
        for at, pixels, wrong in loader:
            for error in wrong:
                if isinstance(error, UserError):  # it may be there the next time: not to be left out for good
                    raise error
            if wrong and strict:
                raise UserError(
                    f"cannot use an image: {wrong[0]}. Mend it, or leave such images out with dataset.strict=false."
                )
            if len(at):
                yield at, pixels
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError("a worker process died, most likely for want of (shared) memory: give workers=0, or fewer.") from error


def _together(items: Sequence[Item]) -> tuple[Tensor, Tensor, list[UnreadableImage | UserError | None]]:
    """A batch: positions and pixels of the readable images, and what is wrong with the others.

    It is made by the workers: each tensor that they hand over takes an open file.
    """
    good = [(at, pixels) for at, pixels, _ in items if pixels is not None]
    stacked = torch.stack([pixels for _, pixels in good]) if good else torch.empty(0)
    return torch.tensor([at for at, _ in good]), stacked, [problem for _, pixels, problem in items if pixels is None]


def usual_workers() -> int:
    """Half of the CPU's cores, at most 8."""
    return min(_MOST_WORKERS, (os.cpu_count() or 1) // 2)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def outputs(
    engine: Engine, view: View, images: ImageList, workers: int, strict: bool, caches: Path, title: str
) -> tuple[Tensor, list[int]]:
    """What a network returns for each image, computed once and stored.

    The stored file's name is a hash of what the numbers depend on: images, network, preprocessing, and how they are computed.
    An interrupted pass continues.

    Args:
        engine: of the network.
        view: its preprocessing.
        images: whose samples pass.
        workers, strict: as in :func:`photographs`.
        caches: the folder of such files.
        title: of the progress bar.

    Returns: float32 (n, K) on the CPU, and the positions of these n images in the list: all of them where ``strict``.
    """
    depends = {
        "images": images.digest,
        "network": [weights_digest(engine.source), settings_digest(engine.source), engine.reading],
        "view": view.settings(),
        "engine": [engine.device.type, engine.precision, engine.compile, engine.batch_size, engine.target_layer],
        "versions": {package: version(package) for package in _PACKAGES},
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    folder = caches / f"outputs-{digest[:16]}"
    shards = []
    with tqdm(total=len(images.samples), desc=title, unit="img", smoothing=0) as bar:
        for part in batches(len(images.samples), _SHARD):
            path = folder / f"{part.start:08d}.safetensors"
            shard = _stored(path)
            if shard is None:
                shard = _passed(engine, view, images.samples[part], workers, strict, bar)
                with writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, save(shard))
            else:
                bar.update(part.stop - part.start)
            shards.append((shard["outputs"], shard["kept"] + part.start))
    values, kept = (torch.cat(x) for x in zip(*shards, strict=True))
    if len(kept) < len(images.samples):
        if strict:
            raise UserError("some images could not be read; mend them, or leave them out with dataset.strict=false.")
        tell(f"note: {len(images.samples) - len(kept)} unreadable image(s) are left out")
    return values, kept.tolist()


def _stored(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _passed(
    engine: Engine, view: View, samples: Sequence[Sample], workers: int, strict: bool, bar: tqdm[Any]
) -> dict[str, Tensor]:
    order = [[(0, at) for at in range(part.start, part.stop)] for part in batches(len(samples), engine.batch_size)]
    values, kept = [], []
    for at, pixels in photographs(samples, Plain(view), order, workers, strict):
        values.append(engine.logits(view.normalised(pixels.to(engine.device))).cpu())
        kept.append(at)
        bar.update(len(at))
    if not values:
        raise UserError(f"none of {len(samples)} images can be read (first: {samples[0].path}).")
    return {"outputs": torch.cat(values), "kept": torch.cat(kept)}


def readable(images: ImageList, strict: bool) -> ImageList:
    """Without images that are not on the disk, which the data set's check lets pass where it isn't strict."""
    if strict:
        return images
    return replace(images, samples=tuple(s for s in images.samples if s.path.is_file()))
