"""The training loop: epochs with a cosine schedule, early stopping, and a state from which it continues.

All random numbers of an epoch (its order, augmentation, dropout) follow from the seed and the epoch's number, so that a
training that was stopped goes on, from the last whole epoch, to the same weights (on one device; CUDA's sums may differ in
their last digits).
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from tqdm import tqdm

from experiments.store.records import replacing, writing
from experiments.training.recipes import Recipe
from suny.errors import UserError
from suny.seeds import image_seed

# Gives, for the number of an epoch, its inputs and labels on the device, batch by batch.
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Epoch:
    """What an epoch has come to; losses are cross-entropies, accuracies shares of images.

    The training's own numbers are taken while it learns, with augmentation and dropout.
    """

    number: int
    train_loss: float
    train_accuracy: float
    held_loss: float | None
    held_accuracy: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """Better epochs rank higher: by accuracy on the held-back images, then by their loss; without these, later ones."""
        if self.held_accuracy is None or self.held_loss is None:
            return self.number, 0.0
        return self.held_accuracy, -self.held_loss


@dataclass(frozen=True)
class Lesson:
    """What is trained on what.

    Args:
        network: maps inputs to logits, on the device.
        groups: of its parameters, for the optimizer: ``params``, and ``factor`` of the learning rate.
        train: the batches to learn from.
        images: how many images these show.
        held: the held-back images, in evaluation's own view; None: none are held back, and the last epoch counts.
    """

    network: nn.Module
    groups: list[dict[str, Any]]
    train: Batches
    images: int
    held: Batches | None


def fit(
    lesson: Lesson, recipe: Recipe, device: torch.device, seed: int, state: Path, digest: str, most: int | None = None
) -> list[Epoch]:
    """Trains a network in place, to the weights of its best epoch.

    Args:
        lesson: what is trained on what.
        recipe: how.
        device: where.
        seed: of all random numbers.
        state: the file with the state after the last whole epoch; where there is one, training goes on from it.
        digest: of all that the result depends on; a state of another training is refused.
        most: epochs at most, of the recipe's; None: all.

    Returns: all epochs.

    Raises:
        UserError: the state belongs to another training; the loss is no number any more.
    """
    network, optimizer = lesson.network, recipe.optimizer_of(lesson.groups)
    mixed = recipe.mixed_precision and device.type == "cuda"
    # cards before Ampere only emulate bfloat16
    half = torch.bfloat16 if mixed and torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=mixed and half == torch.float16)
    epochs: list[Epoch] = []
    best: dict[str, Tensor] = {}
    if (found := read_state(state, digest)) is not None:
        epochs = [Epoch(**e) for e in found["epochs"]]
        network.load_state_dict(found["network"])
        optimizer.load_state_dict(found["optimizer"])
        scaler.load_state_dict(found["scaler"])
        best = found["best"]

    steps = -(-lesson.images // recipe.batch_size)
    most = most or recipe.epochs
    bar = tqdm(total=most * lesson.images, initial=len(epochs) * lesson.images, unit="img", desc="training")
    with bar, torch.random.fork_rng(devices=[]):
        while len(epochs) < most and not _exhausted(epochs, recipe.patience):
            number = len(epochs)
            torch.manual_seed(image_seed(seed, f"epoch {number}"))
            network.train()
            total, right, shown = 0.0, 0, 0
            for step, (inputs, labels) in enumerate(lesson.train(number)):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * group["factor"] * recipe.schedule(number + (step + 0.5) / steps)
                with torch.autocast(device.type, half) if mixed else nullcontext():
                    logits = network(inputs)
                    loss = nnf.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                total += float(loss.detach()) * len(labels)
                right += int((logits.detach().argmax(1) == labels).sum())
                shown += len(labels)
                bar.update(len(labels))
            if not math.isfinite(total):
                raise UserError(f"the loss is {total} in epoch {number + 1}: give a smaller recipe.lr than {recipe.lr:g}.")
            held_loss, held_accuracy = evaluate(network, lesson.held) if lesson.held else (None, None)
            epochs.append(Epoch(number, total / shown, right / shown, held_loss, held_accuracy))
            if epochs[-1] is best_of(epochs):
                best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            if held_accuracy is not None:
                bar.set_postfix_str(f"held-back accuracy {held_accuracy:.3f}", refresh=False)
            content = {
                "digest": digest,
                "epochs": [asdict(e) for e in epochs],
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "best": best,
            }
            with writing(state.parent), replacing(state) as new:
                torch.save(content, new)
    network.load_state_dict(best)
    return epochs


def best_of(epochs: list[Epoch]) -> Epoch:
    """The first of the best epochs."""
    return max(epochs, key=lambda e: e.rank)


def _exhausted(epochs: list[Epoch], patience: int) -> bool:
    return bool(epochs) and len(epochs) - 1 - best_of(epochs).number >= patience


def evaluate(network: nn.Module, held: Batches) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a network in evaluation mode."""
    network.eval()
    losses, rights = [], []
    with torch.inference_mode():
        for inputs, labels in held(0):
            logits = network(inputs).float()
            losses.append(nnf.cross_entropy(logits, labels, reduction="none").double().cpu())
            rights.append((logits.argmax(1) == labels).double().cpu())
    return float(torch.cat(losses).mean()), float(torch.cat(rights).mean())


def read_state(state: Path, digest: str) -> dict[str, Any] | None:
    """The state of an interrupted training, None where there is none; nothing but tensors and numbers is read.

    Raises:
        UserError: it is damaged, or belongs to another training.
    """
    if not state.exists():
        return None
    try:
        found = torch.load(state, map_location="cpu", weights_only=True)
        same = found["digest"] == digest
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{state} cannot be read ({str(error)[:80]}): delete it, and training begins anew.") from error
    if not same:
        raise UserError(
            f"{state} is an interrupted training with other settings, images or weights: give these again to continue it, "
            "give another out=FILE, or delete it."
        )
    return found
