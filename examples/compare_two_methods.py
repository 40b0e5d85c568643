"""Compares two methods image by image: ``python examples/compare_two_methods.py``.

The network is a small one with random weights, so that nothing is downloaded.
"""

import torch
from torch import nn

import suny

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)
)
images = torch.randn(16, 3, 64, 64)

scores = {}
for method, settings in (("rise", {"masks": 200}), ("gradcam", {})):
    explain = suny.Explainer(model, method, **settings)  # the network is prepared once for all of them
    explanation = explain(images)
    print(explanation)
    scores[method] = suny.score(model, images, explanation, ["deletion", "insertion"])
    print(suny.summary(scores[method]))

print("rise - gradcam, with the 95% interval over images, Wilcoxon's p and the rank-biserial correlation:")
print(suny.compare(scores["rise"], scores["gradcam"]))
