"""Ablation-CAM and Score-CAM of pytorch-grad-cam, as a user of it runs them."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from pytorch_grad_cam import AblationCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from experiments.benchmark.common import quiet

# An intervention is timed on so many masked or ablated channels: a whole layer takes minutes.
CHANNELS = 32


def intervention_costs(network: nn.Module, layer: str, image: Tensor, target: Tensor, batch_size: int) -> tuple[float, float]:
    """Seconds for one intervention of pytorch-grad-cam's Ablation-CAM and Score-CAM, over some channels of a layer."""
    network = copy.deepcopy(network)  # it patches the network
    module = network.get_submodule(layer)
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach().clone()))
    with torch.no_grad():
        network(image)
    handle.remove()
    some = outputs[0].cpu().numpy()[:, :CHANNELS]
    wanted = [ClassifierOutputTarget(int(target))]
    spent = []
    for kind in (AblationCAM, ScoreCAM):
        cam = kind(network, [module])
        cam.batch_size = batch_size
        start = time.perf_counter()
        with quiet():
            cam.get_cam_weights(image, module, wanted, some, None)
        spent.append((time.perf_counter() - start) / some.shape[1])
        cam.activations_and_grads.release()
    return spent[0], spent[1]


def explain(
    kind: type[AblationCAM] | type[ScoreCAM], network: nn.Module, layer: str, image: Tensor, target: Tensor, batch_size: int
) -> tuple[Tensor, float]:
    """Makes a whole explanation.

    Returns: the map before it is rectified, scaled and upsampled, (h, w), and the seconds it took.
    """
    network = copy.deepcopy(network)  # Ablation-CAM patches it
    cam = kind(network, [network.get_submodule(layer)])
    cam.batch_size = batch_size
    maps: list[Tensor] = []
    get_map = cam.get_cam_image

    def keep(*arguments: Any) -> Any:
        low = get_map(*arguments)
        maps.append(torch.from_numpy(low)[0].float())
        return low

    cam.get_cam_image = keep
    start = time.perf_counter()
    with quiet():
        cam(image, [ClassifierOutputTarget(int(target))])
    taken = time.perf_counter() - start
    cam.activations_and_grads.release()
    return maps[0], taken
