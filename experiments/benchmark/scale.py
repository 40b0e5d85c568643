"""Start: the bytes that a process reads, and the time it takes, before the first image of a data set that has many.

A folder in the layout of ILSVRC2012 (images, an XML file for each, LOC_val_solution.csv) is made in a temporary directory; the
images are small, so that what is counted is the cost of their number. Each start is a process of its own, and its figures
cover all that depends on the data set: lists, annotations, checks, digest, and the first image decoded. The program, its
imports and the network come on top. Bytes are those that the process asked the system for (``rchar`` of /proc/self/io),
whether from the disk or not.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.benchmark.common import Figure
from suny.errors import UserError
from suny.images.dataset import imagenet_classes
from suny.images.decode import decode
from suny.images.filecache import SETTLED, FileCache
from suny.images.ilsvrc2012 import Ilsvrc2012

# One figure is for so many shards; it is computed rather than measured.
_SHARDS = 64

_SIZE = (80, 60)  # pixels

_XML = (
    "<annotation><filename>{image}</filename><size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
    "<object><name>{wnid}</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>49</xmax><ymax>39</ymax></bndbox></object>"
    "</annotation>"
)

STEPS = 5


def make(root: Path, count: int) -> None:
    """Writes the folder: small pictures of noise, whose files differ."""
    folders = [root / kind / "CLS-LOC/val" for kind in ("Data", "Annotations")]
    for folder in folders:
        folder.mkdir(parents=True)
    width, height = _SIZE
    stored = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stored, "JPEG")
    classes = list(imagenet_classes())
    rows = ["ImageId,PredictionString"]
    for at in range(1, count + 1):
        image, wnid = f"ILSVRC2012_val_{at:08d}", classes[at % len(classes)]
        (folders[0] / f"{image}.JPEG").write_bytes(stored.getvalue() + image.encode())  # behind the end of the picture
        (folders[1] / f"{image}.xml").write_text(_XML.format(image=image, wnid=wnid, w=width, h=height))
        rows.append(f"{image},{wnid} 5 6 49 39 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")


def start(root: str, caches: str) -> dict[str, Any]:
    """Measures this process until its first image is decoded: seconds, those of a core, bytes; and the digest of the list."""
    began, busy, before = time.perf_counter(), time.process_time(), _read()
    images = Ilsvrc2012(name="ilsvrc2012", root=root).load(FileCache(Path(caches), root) if caches else None)
    digest = images.digest
    decode(images.samples[0].path)
    seconds, core = time.perf_counter() - began, time.process_time() - busy
    return {"seconds": seconds, "core": core, "read": _read() - before, "digest": digest}


def figures(count: int, together: int, progress: tqdm[Any]) -> list[Figure]:
    """Starts without a cache, with an empty one, with a full one; of one process, and of several at once.

    Args:
        count: how many images the folder has.
        together: processes that start at once.
        progress: takes :data:`STEPS` steps.
    """
    measures: list[Figure] = []

    def measured(what: str, caches: str, processes: int = 1) -> list[dict[str, Any]]:
        progress.set_description(what)
        each = _started(root, caches, processes)
        measures.append(Figure("-", f"{what}: to the first image", max(e["seconds"] for e in each), "s"))
        measures.append(Figure("-", f"{what}: of a core", max(e["core"] for e in each), "s"))
        measures.append(Figure("-", f"{what}: read", sum(e["read"] for e in each) / 1e6, "MB"))
        progress.update()
        return each

    with tempfile.TemporaryDirectory() as folder:
        root = os.path.join(folder, "data")
        progress.set_description(f"making {count} images")
        make(Path(root), count)
        time.sleep(SETTLED)  # younger files are not kept
        several = f"{together} processes at once"
        one, many = os.path.join(folder, "one"), os.path.join(folder, "many")
        starts = [
            *measured("caches=null", ""),
            *measured("first start", one),
            *(second := measured("second start", one)),
            *measured(f"{several}, first start", many, together),
            *measured(f"{several}, second start", many, together),
        ]
        kept = sum(path.stat().st_size for path in Path(one).iterdir())
    if len({s["digest"] for s in starts}) > 1:
        raise AssertionError("the digest of the list depends on the cache")
    measures.append(
        Figure(
            "-", f"{_SHARDS} shards, second start, {_SHARDS} times that of one: read", _SHARDS * second[0]["read"] / 1e6, "MB"
        )
    )
    measures.append(Figure("-", "the cache on the disk", kept / 1e6, "MB"))
    return measures


def _started(root: str, caches: str, processes: int) -> list[dict[str, Any]]:
    """The results of :func:`start` in so many processes at once."""
    command = [sys.executable, "-m", "experiments.benchmark.scale", root, caches]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()  # its imports are done
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate() for process in running]
    for process, (_, error) in zip(running, ended, strict=True):
        if process.returncode:
            raise UserError(f"a start ended with exit code {process.returncode}: {error.strip()[-300:]}")
    return [json.loads(out) for out, _ in ended]


def _read() -> float:
    """Bytes that this process has read; not a number where the system does not count them."""
    try:
        return float(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        return float("nan")


def main(arguments: Sequence[str]) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(start(*arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
