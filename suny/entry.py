"""What a caller of the library gives, checked once, before any work: images, classes, network, layer, settings.

The usual forms are accepted; everything else is one line that says what came and what is wanted.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from suny.classifiers.copies import own_copy
from suny.classifiers.engine import BatchSize, Precision, out_of_memory
from suny.classifiers.layers import CHANNELS_FIRST, Layers, Layout, Reshape, find_layers
from suny.classifiers.outputs import OutputKind, Reading, class_rows, number_of_classes, probabilities, reading_of
from suny.classifiers.probing import rows_of
from suny.errors import UserError, nearest

# Modules around a network, by their classes, and under which name they hold it.
_AROUND = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


class NoSuchClass(UserError, IndexError):
    """A class index beyond the network's classes."""


def checked_images(images: Any) -> Tensor:
    """Images as float32 (B, C, H, W) on their device, without gradients.

    Args:
        images: a floating tensor or array (B, C, H, W), or of a single image (C, H, W), as the network takes them.

    Raises:
        UserError: of another type or shape, empty, or not finite.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "fiub":
        images = torch.from_numpy(np.ascontiguousarray(images))
    if not isinstance(images, Tensor):
        raise UserError(f"images are a {type(images).__name__}: give a float tensor (B, C, H, W), normalised for the network.")
    shape = tuple(images.shape)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4:
        volumes = " (volumes and videos are not explained)" if images.ndim == 5 else ""
        raise UserError(f"images have the shape {shape}: give (B, C, H, W){volumes}.")
    if not images.is_floating_point():
        raise UserError(
            f"images are {images.dtype}: give floats as the network takes them; of pixels 0..255, (images / 255 - mean) / std."
        )
    if 0 in shape:
        raise UserError(f"images have the shape {shape}: there is nothing to explain.")
    if shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4) and min(images.shape[1:3]) > 4:
        raise UserError(f"images have the shape {shape}, channels last: give (B, C, H, W), as images.permute(0, 3, 1, 2) is.")
    if images.layout != torch.strided or images.device.type == "meta":
        raise UserError(f"images are a tensor of layout {images.layout} on {images.device}: give a dense tensor with values.")
    images = images.detach().float()
    if not bool(images.isfinite().all()):
        spoilt = int((~images.isfinite()).flatten(1).any(1).sum())
        raise UserError(f"{spoilt} of {len(images)} images have NaN or infinite values.")
    return images


def checked_targets(targets: Any, count: int, classes: int) -> list[int] | None:
    """The class of each image; None where none is said.

    Args:
        targets: class indices as an int (of all images), a sequence, an array or a tensor (B,); or one-hot rows (B, K).
        count: B.
        classes: K.

    Raises:
        UserError: another type, another number of them, or (:class:`NoSuchClass`) a class that the network does not have.
    """
    if targets is None:
        return None
    wanted = f"give class indices 0..{classes - 1}, one per image ({count}), or None for the top-1"
    try:
        given = targets if isinstance(targets, Tensor) else torch.as_tensor(np.asarray(targets))
    except (TypeError, ValueError) as error:
        raise UserError(f"targets are a {type(targets).__name__}: {wanted}.") from error
    if given.ndim == 2 and given.shape[1] == classes > 1:
        if not bool(((given == 0) | (given == 1)).all() and (given.sum(1) == 1).all()):
            raise UserError(f"targets have the shape {tuple(given.shape)} and are not one-hot: {wanted}.")
        given = given.int().argmax(1)
    if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool:
        raise UserError(f"targets are {given.dtype} ({_shown(given)}): {wanted}.")
    if given.ndim == 0:
        given = given.expand(count)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim != 1 or len(given) != count:
        raise UserError(f"targets have the shape {tuple(given.shape)} for {count} images: {wanted}.")
    wrong = given[(given < 0) | (given >= classes)]
    if len(wrong):
        raise NoSuchClass(f"targets hold {int(wrong[0])}, and the network has {classes} classes: {wanted}.")
    return [int(target) for target in given]


def _shown(given: Tensor) -> str:
    values = ", ".join(f"{value:g}" for value in given.flatten()[:3].tolist())
    return f"{values}, ..." if given.numel() > 3 else values


def checked_network(model: Any) -> nn.Module:
    """The network itself, without what compiles it or spreads it over devices.

    Raises:
        UserError: no module.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}: give the network as a torch.nn.Module.")
    inner = next((getattr(model, name) for kind, name in _AROUND.items() if type(model).__name__ == kind), model)
    return model if inner is model else checked_network(inner)


def refuse_without_weights(model: nn.Module) -> None:
    """Raises UserError for a network some of whose weights have no values yet."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise UserError(f"the network's {name} is not initialised: pass an image through its lazy layers first.")
        if tensor.device.type == "meta":
            raise UserError(f"the network's {name} is on the meta device and has no values: load its weights first.")


def layer_name(model: nn.Module, target_layer: Any) -> str | None:
    """The name of a layer that is given by name or as the module itself; None where none is.

    Raises:
        UserError: no layer of the network.
    """
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(target_layer, nn.Module):
        for name, module in model.named_modules():
            if module is target_layer and name:
                return name
        raise UserError(
            f"target_layer is a {type(target_layer).__name__} that is no layer of this network (of a copy of it?): give its "
            f"name, such as '{names[-1] if names else ''}'."
        )
    if target_layer is None:
        return None
    if not isinstance(target_layer, str):
        raise UserError(f"target_layer is a {type(target_layer).__name__}: give a layer's name, the module, or None.")
    for around in _AROUND.values():
        if target_layer not in names:
            target_layer = target_layer.removeprefix(f"{around}.")
    if target_layer not in names:
        raise UserError(f"target_layer={target_layer} is no module of the network. {nearest(target_layer, names)}")
    return target_layer


def checked_precision(precision: Any) -> Precision:
    return _one_of(precision, "precision", get_args(Precision))


def checked_reshape(reshape: Any) -> Reshape | None:
    return None if reshape is None else _one_of(reshape, "reshape", get_args(Reshape))


def checked_batch_size(batch_size: Any) -> BatchSize:
    if batch_size is None or batch_size == "auto" or (type(batch_size) is int and batch_size >= 1):
        return batch_size
    raise UserError(f"batch_size={batch_size!r}: give a whole number of images, 1 or more, 'auto' or None.")


def _one_of(value: Any, key: str, valid: tuple[str, ...]) -> Any:
    if value not in valid:
        raise UserError(f"{key}={value} is unknown. {nearest(str(value), valid)}Valid: {', '.join(valid)}.")
    return value


class Network:
    """A caller's network as it is run here: a copy in evaluation mode, float32, on the CPU, tried on the first image.

    Attributes:
        module: the copy.
        reading: how class probabilities are read from its outputs.
        classes: K.
        probe: the image that it was tried on, (1, C, H, W), on the CPU.
    """

    def __init__(self, model: nn.Module, image: Tensor, output: OutputKind) -> None:
        """Tries the network.

        Args:
            model: the caller's; it stays as it is.
            image: the first one, (1, C, H, W).
            output: what its outputs are.

        Raises:
            UserError: it does not take the image, or what it returns can't be explained.
        """
        refuse_without_weights(model)
        self.module = _copied(model)
        self.probe = image.cpu()
        rows = self._tried()
        if not bool(rows.isfinite().all()):
            raise UserError("the network returns NaN or infinite outputs for the first image: its weights are damaged.")
        rows = rows_of(self.module, self.probe, rows)
        self.reading: Reading = reading_of(output, rows)
        self.classes = number_of_classes(rows, self.reading)
        self._refuse_batch_mates(rows[:1])

    def layer(self, name: str | None, reshape: Reshape | None, needed: bool) -> tuple[str | None, Layout]:
        """The target layer, the last one with places where none is named, and what it returns.

        Args:
            name: as :func:`layer_name` returns it.
            reshape: what it may return beside feature maps; maps with channels last are always taken.
            needed: whether the method explains a layer at all.

        Raises:
            UserError: it can't be explained.
        """
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.module.modules()) and not self._layers().shapes:
            if needed:
                raise UserError(
                    "the network is compiled by torch.jit, so that its layers can't be read: give the module that it was made "
                    "from, or explain with cause=region, which takes whole passes only."
                )
            return None, CHANNELS_FIRST
        layers = self._layers()
        if name is not None:
            no_map = f"target_layer={name} does not return a feature map (B, C, h, w)"
            return name, layers.chosen(name, (None, "channels_last", reshape), no_map)
        try:
            return layers.default()
        except UserError:
            if needed:
                raise
            return None, CHANNELS_FIRST

    def _layers(self) -> Layers:
        return find_layers(self.module, self.probe)

    def _tried(self) -> Tensor:
        try:
            return self._rows(self.probe)
        except UserError:
            raise
        except Exception as error:  # of the user's code: of any kind
            if out_of_memory(error):
                raise
            shape, first = tuple(self.probe.shape), _first_convolution(self.module)
            wants = ""
            if first is not None and first[1] != shape[1]:
                wants = f": its first convolution ({first[0]}) takes {first[1]} channels, the images have {shape[1]}"
            said = (str(error).strip().splitlines() or [""])[0][:200]
            raise UserError(
                f"the network does not take the first image, float32 {shape}{wants} ({type(error).__name__}: {said})."
            ) from error

    def _refuse_batch_mates(self, alone: Tensor) -> None:
        """Raises UserError where an image's outputs depend on the others of its batch."""
        try:
            together = self._rows(torch.cat([self.probe, 0.5 * self.probe.flip(-1)]))
        except UserError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            said = (str(error).strip().splitlines() or [""])[0][:200]
            raise UserError(
                f"the network takes one image and fails for two ({type(error).__name__}: {said}): batches are needed."
            ) from error
        if len(together) != 2:
            raise UserError(f"the network returns {len(together)} rows of outputs for 2 images: one row per image is needed.")
        one, other = (probabilities(rows, self.reading)[0] for rows in (alone, together))
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-3):
            raise UserError(
                "the network's outputs for an image depend on the others of its batch: its layers have to treat each alone."
            )

    def _rows(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return class_rows(self.module(images.clone())).float()


def _copied(model: nn.Module) -> nn.Module:
    try:
        copied = own_copy(model).cpu().float().eval()
        for parameter in copied.parameters():  # a compiled module has no requires_grad_ of its own
            parameter.requires_grad_(False)
        return copied
    except Exception as error:  # of the user's classes: of any kind
        if out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"the network can't be copied ({type(error).__name__}: {said}).") from error


def _first_convolution(model: nn.Module) -> tuple[str, int] | None:
    """The name and input channels of the convolution that is defined first."""
    found = ((name, m.in_channels) for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd))
    return next(found, None)
