"""Any folder of class folders, ``ROOT/<class>/<image>``, without boxes.

Class folders named by WordNet ids (n01440764) get ImageNet's class indices; any other names are numbered in sorted order,
as torchvision's ImageFolder does.
"""

from __future__ import annotations

from pathlib import Path

from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import IMAGE_SUFFIXES, Dataset, ImageList, LabelSpace, Sample, find_root, imagenet_classes


@configured
class ImageFolder(Dataset):
    """A folder of class folders; keys as in :class:`~suny.images.dataset.Dataset`."""

    def read(self) -> ImageList:
        def inside(root: Path) -> Path | None:
            return root if any(p.is_dir() for p in root.iterdir()) else None

        root = find_root(self.root, "imagefolder", inside, "class folders with images in them")
        files = sorted(p for p in root.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"dataset.root={self.root}: looked for <class folder>/<image>.jpg, found no image.")
        folders = sorted({p.parent.name for p in files})
        imagenet = imagenet_classes()
        known = [f for f in folders if f in imagenet]
        space: LabelSpace = "imagenet" if len(known) == len(folders) else "own"
        if known and space == "own":
            other = next(f for f in folders if f not in imagenet)
            raise UserError(
                f"dataset.root={self.root}: class folder '{other}' is no ImageNet WordNet id, but {len(known)} "
                "others are: name all class folders by WordNet ids, or none."
            )
        label = {f: imagenet[f][0] if space == "imagenet" else i for i, f in enumerate(folders)}
        names = dict(imagenet.values()) if space == "imagenet" else dict(enumerate(folders))
        stems = [str(p.relative_to(root).with_suffix("")) for p in files]
        ids = stems if len(set(stems)) == len(stems) else [str(p.relative_to(root)) for p in files]
        samples = tuple(Sample(i, p, label[p.parent.name]) for i, p in zip(ids, files, strict=True))
        return ImageList(samples, names, space, has_boxes=False)
