"""A training from its configuration to a checkpoint: the parts of a data set, a lesson, its epochs, the test at the end.

The command is :mod:`experiments.train`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from tabulate import tabulate
from torch import Tensor, nn

from experiments.command import configuration as config
from experiments.command import data_folders
from experiments.command.program import composed
from experiments.command.progress import tell
from experiments.store.card import environment
from experiments.store.records import replacing, writing
from experiments.tables.text import bounds, number
from experiments.training.data import Augmented, Look, Plain, outputs, photographs, readable, usual_workers
from experiments.training.loop import Epoch, Lesson, best_of, fit
from experiments.training.recipes import FinetuneRecipe, HeadRecipe, Recipe
from metrics.statistics import class_mean_interval, mean_interval
from suny.classifiers.checkpoint import Trained, read_trained, write_checkpoint
from suny.classifiers.classifier import Classifier, Model, Source, weights_digest
from suny.classifiers.engine import Engine, batches, pick_device, to_channels_last
from suny.classifiers.head import remove_head, replace_head
from suny.configured import Seed, configured
from suny.errors import UserError
from suny.images.dataset import Dataset, ImageList, set_apart
from suny.images.filecache import FileCache
from suny.seeds import image_seed

_GROUPS = ("dataset", "model", "recipe")


@configured
class Settings:
    """The keys at the top of ``conf/train.yaml``."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    workers: Annotated[int, Field(ge=0)] | None
    held_back: Annotated[float, Field(gt=0, lt=1)]
    out: str
    caches: str


@dataclass(frozen=True)
class Training:
    """All that a training is made of.

    Args:
        settings, dataset, model, recipe, resolved: from the configuration.
        device: where.
        train, test: the parts; class indices are the data set's.
        classes: the class index of each output.
        source: the network to be trained, with its old head.
        classifier: the same, as it would be explained.
        digest: of all that the result depends on.
    """

    settings: Settings
    dataset: Dataset
    model: Model
    recipe: Recipe
    resolved: dict[str, Any]
    device: torch.device
    train: ImageList
    test: ImageList
    classes: tuple[int, ...]
    source: Source
    classifier: Classifier
    digest: str

    @property
    def workers(self) -> int:
        return usual_workers() if self.settings.workers is None else self.settings.workers

    def labels(self, images: ImageList) -> Tensor:
        """The output that is each image's class, int64."""
        output = {label: k for k, label in enumerate(self.classes)}
        return torch.tensor([output[int(s.label or 0)] for s in images.samples])


def read(overrides: list[str]) -> Training:
    """From the command line to a training, with everything checked that can be before it begins.

    Raises:
        UserError: any mistake of the input.
    """
    try:
        cfg = composed(overrides, "train")
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {error}") from error
    resolved = config.resolve(cfg)
    settings = config.make(Settings, {k: v for k, v in resolved.items() if k not in _GROUPS}, "")
    dataset: Dataset = config.make_target(resolved["dataset"], "dataset", Dataset)
    model: Model = config.make_target(resolved["model"], "model", Model)
    recipe: Recipe = config.make_target(resolved["recipe"], "recipe", Recipe)
    if Path(settings.out).suffix != ".safetensors":
        raise UserError(f"out={settings.out}: give a file name that ends in .safetensors.")
    device = pick_device(settings.device)
    data_folders.declare_configured(resolved["dataset"])
    data_folders.refuse(settings.out, "out")
    train, test, classes = parts(dataset, config.file_cache(dataset, settings.caches))
    data_folders.refuse(settings.out, "out")
    classifier = model.build()
    for note in classifier.notes:
        tell(f"note: {note}")
    source = model.source()
    decisive = {
        "images": [train.digest, test.digest],
        "classes": classes,
        "weights": weights_digest(classifier.network),
        "view": classifier.view.settings(),
        "target_layer": classifier.target_layer,
        **({"options": dict(source.options)} if source.options else {}),
        "recipe": asdict(recipe),
        "held_back": settings.held_back,
        "seed": settings.seed,
        "device": device.type,
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return Training(settings, dataset, model, recipe, resolved, device, train, test, classes, source, classifier, digest)


def parts(dataset: Dataset, cache: FileCache | None = None) -> tuple[ImageList, ImageList, tuple[int, ...]]:
    """The train and the test part of a data set, and the class indices in the train part.

    Args:
        dataset: with a key ``split``.
        cache: of its files (:meth:`~suny.images.dataset.Dataset.load`).

    Raises:
        UserError: a data set without parts, fewer than two classes, a test image of a class that cannot be learnt.
    """
    if not hasattr(dataset, "split"):
        raise UserError(f"dataset={dataset.name} has no train part: give dataset=cub or dataset=imagefolder.")
    both = (replace(dataset, split=s) for s in ("train", "test"))  # type: ignore[call-arg]
    train, test = (readable(data_folders.load(part, cache), dataset.strict) for part in both)
    for note in dict.fromkeys((*train.notes, *test.notes)):
        tell(f"note: {note}")
    classes = sorted({s.label for s in train.samples if s.label is not None})
    if len(classes) < 2:
        raise UserError(f"dataset={dataset.name}: the train part has {len(classes)} class(es), there must be two or more.")
    for sample in test.samples:
        if sample.label not in classes:
            raise UserError(f"test image {sample.image} is of a class without training images: give more, or leave it out.")
    return train, test, tuple(classes)


def finished(out: Path, digest: str) -> Trained | None:
    """What an existing checkpoint of the same training says; None where there is none.

    Raises:
        UserError: the file is something else, which is not overwritten.
    """
    if not out.exists():
        return None
    trained = read_trained(str(out))
    if trained is None or trained.digest != digest:
        raise UserError(f"out={out} exists and is of another training: give another out=FILE, or delete it.")
    tell("note: this training is finished")
    return trained


def run(training: Training, out: Path) -> Trained:
    """Trains, measures on the test part, and writes the checkpoint and its learning curve."""
    rest, held = set_apart(training.train.samples, training.settings.held_back, training.settings.seed)
    if not held:
        raise UserError(f"held_back={training.settings.held_back:g} leaves no image to compare epochs on: give more.")
    names = [training.train.class_names[k] for k in training.classes]
    counts = f"{len(rest)} images to learn from, {len(held)} held back, {len(training.test.samples)} to test"
    tell(f"note: {counts}; {len(names)} classes")
    network, recipe = training.source.network, training.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.settings.seed)
        head = replace_head(network, recipe.new_head, len(names))
    draft = out.with_name(f".{out.stem}.draft.safetensors")
    rehearse(training, names, draft)
    fresh = copy.deepcopy(head.state_dict())
    make = finetune_lesson if isinstance(recipe, FinetuneRecipe) else head_lesson
    states = [out.with_name(f"{out.name}.training"), out.with_name(f"{out.name}.refit")]
    common = recipe, training.device, training.settings.seed
    try:
        epochs = fit(make(training, network, head, {s.image for s in held}), *common, states[0], training.digest)
        if isinstance(recipe, HeadRecipe) and recipe.refit:
            head.load_state_dict(fresh)
            fit(make(training, network, head, set()), *common, states[1], training.digest, best_of(epochs).number + 1)
    except KeyboardInterrupt:
        tell("stopped: the same command continues, from the last whole epoch.")
        raise
    best = best_of(epochs)
    measured = {
        "held_back": {"accuracy": best.held_accuracy, "n": len(held), "epoch": best.number + 1},
        "epochs": [asdict(e) for e in epochs],
    }
    trained, weights = described(training, names, measured), network.state_dict()
    with writing(out.parent):
        write_checkpoint(draft, weights, trained)
    # measured as everyone else will use it: from the file
    test = tested(training, read_draft(training, draft))
    trained = replace(trained, metrics={"test": test, **trained.metrics})
    with writing(out.parent):
        draw(epochs, out.with_suffix(".png"), f"{trained.dataset}, {trained.model}, recipe {recipe.name}")
        with replacing(out) as new:
            write_checkpoint(new, weights, trained)
        for temporary in (draft, *states):
            temporary.unlink(missing_ok=True)
    return trained


def described(training: Training, names: Sequence[str], measured: dict[str, Any]) -> Trained:
    """What the checkpoint will say.

    Args:
        training: which is done, or about to begin.
        names: of the classes, by output.
        measured: what was measured of it.
    """
    return Trained(
        model=training.model.name,
        options=dict(training.source.options),
        head=training.recipe.new_head,
        class_ids=training.classes,
        class_names=tuple(names),
        label_space=training.train.label_space,
        view=training.classifier.view,
        target_layer=training.classifier.target_layer,
        dataset=training.dataset.name,
        metrics=measured,
        configuration=training.resolved,
        environment=environment(training.device),
        digest=training.digest,
    )


def read_draft(training: Training, draft: Path) -> Classifier:
    """The classifier that everyone else will read from a checkpoint."""
    return replace(training.model, checkpoint=str(draft), num_classes=None).build()


def rehearse(training: Training, names: Sequence[str], draft: Path) -> None:
    """Writes a checkpoint of the network before it is trained, and reads it: nothing is lost yet.

    Raises:
        UserError: the checkpoint is refused, or is another network than the one that would be trained.
    """
    network, side = training.source.network, training.classifier.view.crop
    try:
        with writing(draft.parent):
            write_checkpoint(draft, network.state_dict(), described(training, names, {}))
        again = read_draft(training, draft).network
    finally:
        draft.unlink(missing_ok=True)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = torch.allclose(again(images), network.eval()(images), rtol=1e-3, atol=1e-3)
    if not same:
        raise UserError(f"model={training.model.name} would be another network when it is read from its checkpoint.")


def head_lesson(training: Training, network: nn.Module, head: nn.Module, apart: set[str]) -> Lesson:
    """The new head alone, on the features of the network that it was put on."""
    body = copy.deepcopy(training.classifier.network)
    remove_head(body)
    side = training.classifier.view.crop
    engine = Engine(body, training.classifier.target_layer, (side, side), training.device)
    features, kept = outputs(
        engine,
        training.classifier.view,
        training.train,
        training.workers,
        training.dataset.strict,
        Path(training.settings.caches).expanduser(),
        "features",
    )
    features = features.to(training.device)
    labels = training.labels(training.train)[kept].to(training.device)
    held = torch.tensor([training.train.samples[at].image in apart for at in kept])
    x, y = features[~held], labels[~held]
    size, seed = training.recipe.batch_size, training.settings.seed

    def learnt(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for at in shuffled(len(x), size, seed, epoch):
            yield x[at], y[at]

    def compared(_epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield features[held], labels[held]

    groups = [{"params": list(head.parameters()), "factor": 1.0}]
    return Lesson(head.to(training.device), groups, learnt, len(x), compared if apart else None)


def finetune_lesson(training: Training, network: nn.Module, head: nn.Module, apart: set[str]) -> Lesson:
    """All weights, on augmented images."""
    recipe, device, view = training.recipe, training.device, training.classifier.view
    assert isinstance(recipe, FinetuneRecipe)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    to_channels_last(network.requires_grad_(True).to(device))
    own = {id(p) for p in head.parameters()}
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in own], "factor": 1.0},
        {"params": list(head.parameters()), "factor": recipe.head_factor},
    ]
    samples = training.train.samples
    labels = training.labels(training.train)
    learnt = [at for at, s in enumerate(samples) if s.image not in apart]
    compared = [at for at, s in enumerate(samples) if s.image in apart]

    def shown(look: Look, order: list[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        for at, pixels in photographs(samples, look, order, training.workers, training.dataset.strict):
            x = view.normalised(pixels.to(device)).to(memory_format=torch.channels_last)
            yield x, labels[at].to(device)

    def train(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = shuffled(len(learnt), recipe.batch_size, training.settings.seed, epoch)
        order = [[(epoch, learnt[i]) for i in at.tolist()] for at in rows]
        yield from shown(Augmented(view, (recipe.scale[0], recipe.scale[1]), training.settings.seed), order)

    def held(_epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from shown(
            Plain(view), [[(0, at) for at in compared[part]] for part in batches(len(compared), recipe.batch_size)]
        )

    return Lesson(network, groups, train, len(learnt), held)


def shuffled(count: int, size: int, seed: int, epoch: int) -> list[Tensor]:
    """The order of an epoch in batches; a last batch of one image is left out, since it has no statistics."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(image_seed(seed, f"order {epoch}")))
    return [at for at in order.split(size) if len(at) > 1 or count == 1]


def tested(training: Training, classifier: Classifier) -> dict[str, Any]:
    """Accuracy on the test part, by the engine that explains, with intervals over images."""
    engine = Engine.of(classifier, training.device)
    caches = Path(training.settings.caches).expanduser()
    strict = training.dataset.strict
    logits, kept = outputs(engine, classifier.view, training.test, training.workers, strict, caches, "test")
    labels = training.labels(training.test)[kept]
    right = (logits.argmax(1) == labels).double().tolist()
    return {
        "accuracy": mean_interval(right),
        "class_accuracy": class_mean_interval(right, labels.tolist()),
        "left_out": len(training.test.samples) - len(kept),
    }


def report(trained: Trained) -> str:
    """What a training has come to."""
    test, held = trained.metrics["test"], trained.metrics["held_back"]
    rows = []
    for title, entry in (("test accuracy", test["accuracy"]), ("mean over classes", test["class_accuracy"])):
        rows.append([title, number(entry["mean"]), bounds(entry), entry["n"]])
    rows.append([f"held back (chose epoch {held['epoch']})", number(held["accuracy"]), "", held["n"]])
    table = tabulate(rows, ["", "accuracy", "95% interval", "n"], tablefmt="github", disable_numparse=True)
    return f"{trained.dataset} / {trained.model}: {len(trained.class_ids)} classes\n\n{table}"


def draw(epochs: Sequence[Epoch], picture: Path, title: str) -> None:
    """The learning curve."""
    import matplotlib

    matplotlib.use("Agg")

    import matplotlib.pyplot as plt

    number = np.arange(1, len(epochs) + 1)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, what in zip(axes, ("loss", "accuracy"), strict=True):
        for part, label in (("train", "learnt from"), ("held", "held back")):
            axis.plot(number, [getattr(e, f"{part}_{what}") for e in epochs], label=label)
        axis.axvline(best_of(list(epochs)).number + 1, color="grey", linestyle=":", linewidth=1, label="chosen epoch")
        axis.set(xlabel="epoch", ylabel=what)
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
