"""Any folder of class folders, ``ROOT/<class>/<image>``, without boxes.

Class folders named by WordNet ids (n01440764) get ImageNet's class indices; any other names are numbered in sorted order,
as torchvision's ImageFolder does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import IMAGE_SUFFIXES, Dataset, ImageList, LabelSpace, Sample, find_root, imagenet_classes


@configured
class ImageFolder(Dataset):
    """A folder of class folders; keys as in :class:`~suny.images.dataset.Dataset`."""

    def read(self) -> ImageList:
        def images(folder: Path) -> Iterator[Path]:
            return (p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)

        root = find_root(self.root, self.name, lambda f: any(images(f)), "<class folder>/<image>.jpg")
        files = sorted(images(root))
        folders = sorted({p.parent.name for p in files})
        imagenet = imagenet_classes()
        known = [f for f in folders if f in imagenet]
        space: LabelSpace = "imagenet" if len(known) == len(folders) else "folders"
        if known and space == "folders":
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
        inside = root != Path(str(self.root)).expanduser()
        notes = (f"images are taken from {root}",) if inside else ()
        return ImageList(samples, names, space, has_boxes=False, notes=notes)
