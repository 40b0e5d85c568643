"""Explains a classifier's decisions and draws them: ``python examples/explain_your_model.py``.

The network here is a small one with random weights, so that nothing is downloaded; put your own in its place.
"""

import torch
from torch import nn

import suny

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
)  # fmt: skip
images = torch.randn(3, 3, 64, 64)  # normalised, as your network takes them

print(suny.methods()[["family", "maps", "cost"]])

# the default: two maps for each image, of the classes that the network predicts
explanation = suny.explain(model, images)
print(explanation)
print(explanation.saliency.shape, explanation.necessity.shape, explanation.sufficiency.shape)

# SUNY over filters, for a class and a layer of your choice: the value of every filter
filters = suny.explain(model, images, targets=2, method="suny_filter", target_layer="3", k=4)
print(filters.values(image=0))

# input, necessity, sufficiency, both, overlay; in a notebook `explanation` as a cell's last line shows it
print("picture:", explanation.save("explanation.png"))
print("arrays:", filters.save("filters.npz"))
