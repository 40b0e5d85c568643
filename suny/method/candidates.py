"""Candidates are the causes that play: channels, groups of channels, or regions of the image."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from suny.threads import one_thread


def prescreen(channels: Tensor, activation: Tensor, gradient: Tensor, size: int | None) -> Tensor:
    """The channels whose single effects are worth scoring: the largest |pooled gradient * pooled activation|.

    Args:
        channels: the choice, int64 ascending.
        activation, gradient: (C, h, w).
        size: how many to keep; None keeps all.

    Returns: int64 (at most size,), ascending.
    """
    if size is None or len(channels) <= size:
        return channels
    strength = (gradient.mean((1, 2)) * activation.mean((1, 2))).abs()[channels]
    best = torch.argsort(strength, descending=True, stable=True)[:size]
    return channels[best].sort().values


def strongest(effects: Tensor, k: int) -> Tensor:
    """Positions of the k largest effects, ties in order of position. int64 (at most k,)."""
    return torch.argsort(effects, descending=True, stable=True)[:k]


def group_channels(activation: Tensor, gradient: Tensor, k: int, by: str) -> Tensor:
    """All channels in at most k groups; every channel belongs to exactly one.

    Channels are compared by their class-weighted maps |pooled gradient| * max(A, 0).

    Args:
        activation, gradient: (C, h, w).
        k: groups; those that get no channel are left out.
        by: ``nmf``: non-negative factors of the weighted maps, a channel joins its strongest factor; ``kmeans``: clusters
            of the maps' directions.

    Returns: bool (n, C), n <= k.
    """
    # The pools of a library are limited only if it is there before: one_thread asks for that.
    from sklearn import cluster, decomposition  # noqa: F401

    return _group(activation, gradient, k, by)


@one_thread
def _group(activation: Tensor, gradient: Tensor, k: int, by: str) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    weighted = (gradient.mean((1, 2)).abs()[:, None] * activation.clamp(min=0).flatten(1)).double().cpu().numpy()
    weighted /= max(weighted.max(), np.finfo(float).tiny)
    k = min(k, *weighted.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct maps than groups is no mistake
        if by == "nmf":
            factors = NMF(k, init="nndsvda", max_iter=400, random_state=0).fit_transform(weighted)
            member = factors.argmax(1)
        else:
            length = np.linalg.norm(weighted, axis=1, keepdims=True)
            member = KMeans(k, n_init=4, random_state=0).fit_predict(weighted / np.where(length > 0, length, 1))
    groups = np.equal.outer(np.arange(k), member)
    return torch.from_numpy(groups[groups.any(1)]).to(activation.device)


def group_maps(activation: Tensor, gradient: Tensor, groups: Tensor) -> Tensor:
    """The map of each group, the class-weighted sum of its channels' maps: (n, h, w), >= 0."""
    weighted = gradient.mean((1, 2)).abs()[:, None, None] * activation.clamp(min=0)
    return torch.einsum("nc,chw->nhw", groups.to(weighted.dtype), weighted)


def grid(size: tuple[int, int], cells: int) -> Tensor:
    """A cells x cells grid: index of each pixel's cell in raster order, int64 (H, W)."""
    rows, columns = (torch.arange(n) * cells // n for n in size)
    return rows[:, None] * cells + columns[None, :]


def superpixels(image: Tensor, segments: int) -> Tensor:
    """SLIC superpixels (Achanta et al. 2012; scikit-image) of a normalised image (3, H, W): int64 (H, W), 0..n-1."""
    from skimage.segmentation import slic

    pixels = image.permute(1, 2, 0).double().cpu().numpy()
    low, high = pixels.min(), pixels.max()
    labels = slic((pixels - low) / max(high - low, 1e-12), n_segments=segments, compactness=10, start_label=0)
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
