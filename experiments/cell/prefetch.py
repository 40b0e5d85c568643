"""Images decoded ahead of their turn, so that the network does not wait for files.

Threads do it, not processes: Pillow releases the interpreter while it decodes and resizes, a photograph needs no copy from one
process to another, and a thread can't die alone and leave the run waiting. What decoding raises is raised where the image is
used, in its turn, so that order, records and failures are those of decoding in line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from torch import Tensor

from suny.images.dataset import Sample
from suny.images.decode import Decoded, decode
from suny.images.view import View


class LoadedImage(NamedTuple):
    """An image as decoded, and as the network sees it, float32 (3, H, W) on the CPU."""

    decoded: Decoded
    pixels: Tensor


def load(sample: Sample, view: View) -> LoadedImage:
    """Decodes an image.

    Raises:
        UnreadableImage, UserError: see :func:`suny.images.decode.decode`.
    """
    decoded = decode(sample.path)
    return LoadedImage(decoded, view(decoded.image))


def prefetch(
    samples: Iterable[Sample], view: View, workers: int
) -> Generator[tuple[Sample, Callable[[], LoadedImage]], None, None]:
    """The samples in their order, each with a function that returns it decoded, or raises what decoding raised.

    Args:
        samples: the images.
        view: the network's view.
        workers: threads; at most two images for each are held. 0: an image is decoded when it is asked for.
    """
    if not workers:
        for sample in samples:
            yield sample, lambda sample=sample: load(sample, view)  # type: ignore[misc]
        return
    coming = iter(samples)
    waiting: deque[tuple[Sample, Future[LoadedImage]]] = deque()
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        while True:
            for sample in islice(coming, 2 * workers - len(waiting)):
                waiting.append((sample, pool.submit(load, sample, view)))
            if not waiting:
                return
            sample, future = waiting.popleft()
            yield sample, future.result
    finally:  # on Ctrl-C too, only the images that are being decoded are waited for
        pool.shutdown(wait=False, cancel_futures=True)
