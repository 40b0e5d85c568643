"""Scores maps that another tool has made: ``python examples/score_other_maps.py``.

Here they are plain input gradients; any array with a map for each image will do. The network is a small one with random
weights, so that nothing is downloaded.
"""

import torch
from torch import nn

import suny

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
).eval()
images = torch.randn(8, 3, 64, 64)
boxes = [[(16, 16, 48, 48)]] * len(images)  # of the object in each image: edges x0, y0, x1, y1 in pixels

pixels = images.clone().requires_grad_()
logits = model(pixels)
targets = logits.argmax(1)
logits.gather(1, targets[:, None]).sum().backward()
maps = pixels.grad.abs().sum(1).numpy()  # (8, 64, 64)

print(suny.metrics()[["better", "needs", "reference"]])

frame = suny.score(
    model, images, maps, ["deletion", "insertion", "necessity", "sufficiency", "energy_proportion"], targets, boxes
)
print(frame)  # a row for each image
print(suny.summary(frame))  # mean, interval and n of each metric
frame.to_csv("scores.csv")
