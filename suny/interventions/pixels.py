"""The one place that perturbs pixels, for methods and metrics alike.

Images are normalised (C, H, W); a *substrate* stands where pixels are removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as nnf

from suny.later import Later

if TYPE_CHECKING:
    from scipy import ndimage
    from torchvision.transforms import functional as tvf
else:
    ndimage = Later("scipy.ndimage")
    tvf = Later("torchvision.transforms.functional")

Substrate = Literal["zero", "blur", "strong_blur", "mean", "gaussian", "wide_gaussian"]
Ties = Literal["raster", "reverse"]

# Libraries' truncated Gaussians have these kernel sides and sigmas, pixels.
_GAUSSIANS = {"gaussian": (11, 5.0), "wide_gaussian": (51, 50.0)}

# The strong blur has this sigma, in pixels: RISE's kernel leaves a class much of its probability, this one hardly any.
STRONG_SIGMA = 20.0


def substrate(image: Tensor, kind: Substrate) -> Tensor:
    """The image that replaces removed pixels.

    Args:
        image: normalised, (3, H, W).
        kind: ``zero``: 0 of the normalised image, the data set's mean colour; ``blur``: RISE's blur (:func:`rise_kernel`);
            ``strong_blur``: a Gaussian of sigma 20 pixels, the border repeated; ``mean``: the image's own mean colour;
            truncated Gaussians as in libraries, the border reflected: ``gaussian`` 11 x 11 of sigma 5, ``wide_gaussian``
            51 x 51 of sigma 50 (Group-CAM's code).

    Returns: (3, H, W).
    """
    if kind == "zero":
        return torch.zeros_like(image)
    if kind == "blur":
        kernel = rise_kernel().to(image)[None, None].expand(3, 1, -1, -1)
        return nnf.conv2d(image[None], kernel, padding=kernel.shape[-1] // 2, groups=3)[0]
    if kind == "strong_blur":
        blurred = ndimage.gaussian_filter(image.cpu().numpy(), (0, STRONG_SIGMA, STRONG_SIGMA), mode="nearest")
        return torch.from_numpy(blurred).to(image)
    if kind == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    if kind in _GAUSSIANS:
        return truncated_gaussian(image, *_GAUSSIANS[kind])
    raise ValueError(f"unknown substrate {kind!r}")


def truncated_gaussian(image: Tensor, kernel: int, sigma: float) -> Tensor:
    """A blurred image (3, H, W): a Gaussian cut off at the kernel's side, the border reflected (torchvision)."""
    side = 2 * min(kernel // 2, image.shape[-1] - 1, image.shape[-2] - 1) + 1
    return tvf.gaussian_blur(image, [side, side], [sigma, sigma])


def rise_kernel(size: int = 11, sigma: float = 5.0) -> Tensor:
    """The blur kernel of RISE's insertion (Petsiuk, Das, Saenko, BMVC 2018), float32 (size, size), sum 1.

    A delta, Gaussian-filtered inside the size x size window whose border reflects: nearly a box (corner over centre
    0.876, where a truncated Gaussian has 0.368). The border of the image is padded with zeros when it is applied.
    """
    delta = torch.zeros(size, size, dtype=torch.float64)
    delta[size // 2, size // 2] = 1.0
    return torch.from_numpy(ndimage.gaussian_filter(delta.numpy(), sigma)).to(torch.float32)


def blend(image: Tensor, background: Tensor, keep: Tensor) -> Tensor:
    """The image where ``keep`` is 1, the background where it is 0, mixed in between.

    Args:
        image, background: (3, H, W).
        keep: (n, H, W) in [0, 1].

    Returns: (n, 3, H, W), laid out as the networks want it (channels last).
    """
    mixed = torch.lerp(background[None], image[None], keep[:, None])  # exact at 0 and 1
    return mixed.contiguous(memory_format=torch.channels_last)  # four times faster than mixing in that layout


def pixel_order(saliency: Tensor, ties: Ties = "raster") -> Tensor:
    """Pixel indices by decreasing saliency.

    Args:
        saliency: (H, W).
        ties: equal pixels in ``raster`` order (ours), or ``reverse`` (RISE's flip(argsort)).

    Returns: int64 (H * W,).
    """
    flat = saliency.flatten()
    return torch.argsort(flat, descending=True, stable=True) if ties == "raster" else torch.argsort(flat, stable=True).flip(0)


def rank_of(order: Tensor) -> Tensor:
    """Rank of each pixel, the inverse of an order: rank 0 is the most salient pixel."""
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank


def tied_fraction(saliency: Tensor) -> float:
    """Fraction of the pixels that share their value with another pixel: where the tie rule decides, in [0, 1]."""
    _, counts = torch.unique(saliency, return_counts=True)
    return float(counts[counts > 1].sum()) / saliency.numel()


def replace_top(start: Tensor, finish: Tensor, rank: Tensor, counts: Tensor) -> Tensor:
    """The image ``start`` with its most salient pixels (all channels of a pixel together) taken from ``finish``.

    Args:
        start, finish: (3, H, W).
        rank: (H, W), from :func:`rank_of`.
        counts: how many pixels are taken, (n,).

    Returns: (n, 3, H, W).
    """
    taken = rank[None] < counts[:, None, None].to(rank.device)
    return torch.where(taken[:, None], finish[None], start[None])
