"""Several classes of a network as one: its probability is the sum of theirs.

With z the logits, the log-sum-exp of the members' z is a logit of "one of them", beside that of all others:
softmax over these two gives the sum of p over the members, and of p over the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from suny.classifiers.classifier import Classifier
from suny.errors import UserError


class Together(nn.Module):
    """A network with two outputs, members and others (N, 2), instead of its K.

    Args:
        network: maps a normalised batch to logits (N, K).
        members: outputs that are one class; not all of them, not none.
        count: K.
    """

    def __init__(self, network: nn.Module, members: Collection[int], count: int) -> None:
        super().__init__()
        if not 0 < len(members) < count:
            raise ValueError(f"{len(members)} of {count} classes leave no two groups")
        self.network = network
        inside = torch.tensor([k in members for k in range(count)])
        self.register_buffer("outside", torch.zeros(2, count).masked_fill(torch.stack([~inside, inside]), -torch.inf))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logsumexp(self.network(images)[:, None, :] + self.outside, 2)


def together(classifier: Classifier, members: Collection[int], name: str) -> Classifier:
    """The classifier whose output 0 is "one of the members", by a name, and whose output 1 is all others.

    Raises:
        UserError: the network's probabilities are no softmax over its outputs, so that classes do not exclude one another.
    """
    if classifier.reading != "softmax":
        raise UserError(f"classes of {classifier.name} cannot be taken as one: its outputs are read as {classifier.reading}.")
    return replace(
        classifier,
        network=Together(classifier.network, members, classifier.num_classes).eval().requires_grad_(False),
        target_layer=classifier.target_layer and f"network.{classifier.target_layer}",
        num_classes=2,
        class_names={0: name, 1: "others"},
        label_space="own",
        trained=None,
        class_ids=None,
    )
