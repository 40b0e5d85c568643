"""CUB-200-2011: birds of 200 species with one box and up to 15 part locations an image, in the official layout.

    images.txt  image_class_labels.txt  classes.txt  train_test_split.txt  bounding_boxes.txt  parts/  images/

Official class ids are 1..200, class indices here 0..199. Boxes are ``x y width height``. Part locations are points. Of a
subset (lists that name some classes only, or classes without an image folder) the class ids stay the official ones.

Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Literal

from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import Dataset, ImageList, Sample, find_root, read_columns, refuse_id
from suny.images.geometry import Box


@configured
class Cub(Dataset):
    """CUB-200-2011.

    Args:
        split: the official ``test`` (5794 images) or ``train`` (5994) part, or ``all``.
    """

    split: Literal["test", "train", "all"] = "test"

    def read(self) -> ImageList:
        def holds(folder: Path) -> bool:
            return (folder / "images.txt").is_file()

        folder = find_root(
            self.root,
            self.name,
            holds,
            "images.txt or CUB_200_2011/images.txt, with the other lists and the folder images beside it",
            "CUB_200_2011.tgz of Caltech's vision lab, www.vision.caltech.edu/datasets/cub_200_2011",
        )
        images = read_columns(folder / "images.txt", ["id", "file"])
        for file in images["file"]:
            refuse_id(file, str(folder / "images.txt"))
        labels = _by_id(folder / "image_class_labels.txt", ["id", "class"])
        split = _by_id(folder / "train_test_split.txt", ["id", "is_train"])
        boxes = _by_id(folder / "bounding_boxes.txt", ["id", "x", "y", "width", "height"])
        names = read_columns(folder / "classes.txt", ["class", "name"])
        folders = {Path(file).parent for file in images["file"]}
        here = {f for f in folders if (folder / "images" / f).is_dir()} or folders
        wanted = {"test": {"0"}, "train": {"1"}, "all": {"0", "1"}}[self.split]
        samples = []
        try:
            class_names = {int(c) - 1: n for c, n in zip(names["class"], names["name"], strict=True)}
            parts = _parts(folder / "parts")
            for id_, file in zip(images["id"], images["file"], strict=True):
                if split[id_][0] not in wanted or Path(file).parent not in here:
                    continue
                edges = [float(v) for v in boxes.get(id_, ())]
                samples.append(
                    Sample(
                        image=str(Path(file).with_suffix("")),
                        path=folder / "images" / file,
                        label=int(labels[id_][0]) - 1,
                        boxes=(Box(edges[0], edges[1], edges[0] + edges[2], edges[1] + edges[3]),) if edges else (),
                        parts=tuple(parts.get(id_, ())),
                        where=str(folder / "bounding_boxes.txt"),
                    )
                )
        except KeyError as error:
            raise UserError(f"{folder}: id {error} is in one list but not in every other one that it belongs to.") from error
        except ValueError as error:
            raise UserError(f"{folder}: a list has a value that is not a number ({error}).") from error
        present = {s.label for s in samples}
        notes = []
        if len(present) < len(class_names):
            notes.append(f"the folder holds {len(present)} of the {len(class_names)} classes; class ids stay official")
        return ImageList(tuple(samples), class_names, "own", has_boxes=True, notes=tuple(notes))


def _by_id(path: Path, names: list[str]) -> dict[str, tuple[str, ...]]:
    ids, *others = read_columns(path, names).values()
    return dict(zip(ids, zip(*others, strict=True), strict=True))


def _parts(folder: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Visible parts by image id; none where the folder is absent."""
    if not (folder / "part_locs.txt").is_file():
        return {}
    part_table = read_columns(folder / "parts.txt", ["part", "name"])
    names = dict(zip(part_table["part"], part_table["name"], strict=True))
    found: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    table = read_columns(folder / "part_locs.txt", ["id", "part", "x", "y", "visible"])
    for id_, part, x, y, visible in zip(*table.values(), strict=True):
        if visible == "1":
            found[id_].append((names[part], float(x), float(y)))
    return found
