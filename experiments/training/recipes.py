"""How a classifier is trained; the fields are the keys of ``conf/recipe/*.yaml``."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from suny.classifiers.head import Head
from suny.configured import configured

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


@configured
class Recipe:
    """What both recipes have.

    Args:
        name: as in ``recipe=NAME``.
        head, hidden, dropout: of the new head (:class:`suny.classifiers.head.Head`).
        optimizer: ``sgd`` (Nesterov momentum .9) or ``adamw``.
        lr: the highest learning rate.
        weight_decay: of all parameters.
        batch_size: images a step.
        epochs: at most.
        warmup: epochs in which the learning rate rises to ``lr``, before it falls to 0 as a cosine.
        patience: epochs without a better one, on the held-back images, after which training stops.
        label_smoothing: of the cross-entropy.
        mixed_precision: on CUDA, bfloat16 where the card has it, else float16 with scaled losses; nothing on a CPU.
    """

    name: str
    head: Literal["linear", "mlp"] = "linear"
    hidden: Annotated[int, Field(ge=1)] = 512
    dropout: Share = 0.5
    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)]
    warmup: Annotated[float, Field(ge=0)] = 0.0
    patience: Annotated[int, Field(ge=1)]
    label_smoothing: Share = 0.0
    mixed_precision: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup={self.warmup:g} leaves nothing of {self.epochs} epochs")
        return self

    @property
    def new_head(self) -> Head:
        return Head(kind=self.head, hidden=self.hidden, dropout=self.dropout)

    def optimizer_of(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of parameter groups (:class:`experiments.training.loop.Lesson`)."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)

    def schedule(self, epoch: float) -> float:
        """The learning rate's factor after so many epochs, parts of epochs included."""
        if epoch < self.warmup:
            return epoch / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / (self.epochs - self.warmup)))


@configured
class HeadRecipe(Recipe):
    """A new head on a frozen network, whose features are computed once.

    Args:
        refit: once the epoch is chosen, the head is trained anew, on the held-back images too, for so many epochs.
    """

    refit: bool = True


@configured
class FinetuneRecipe(Recipe):
    """All weights, on augmented images; those of the best epoch are kept.

    Args:
        scale: smallest and largest share of an image's area that a random crop shows.
        head_factor: the new head's learning rate, as a multiple of the others'.
    """

    scale: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]
    head_factor: Positive = 10.0
