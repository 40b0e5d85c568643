"""Seeds: everything that is random about an image is drawn from a seed of its own."""

from __future__ import annotations

import hashlib


def image_seed(seed: int, image: str) -> int:
    """The seed of one image: the same whatever else is in the run and in whatever order.

    Args:
        seed: the seed of the run.
        image: the image's id.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{image}".encode("utf-8", "surrogateescape")).digest()[:4], "big")
