"""Checks that a data set's labels are the classes of a network, so that its predictions can be compared with them."""

from __future__ import annotations

from dataclasses import replace

from experiments.command.configuration import Run
from suny.classifiers.checkpoint import Trained
from suny.classifiers.classifier import Classifier
from suny.custom import CustomModel
from suny.errors import UserError
from suny.images.dataset import ImageList, Sample


def with_comparable_labels(run: Run, images: ImageList, classifier: Classifier) -> tuple[tuple[Sample, ...], list[str]]:
    """Checks that the labels are the network's classes; labels that can't be are dropped with a note.

    Returns: the samples, and notes for the user.

    Raises:
        UserError: labels are needed, and can't be compared; a label that the network has no output for.
    """
    if all(s.label is None for s in images.samples) and not images.class_names:
        if run.settings.target == "label":
            raise UserError(f"target=label: the images of {run.dataset.name} have no labels; use target=predicted.")
        return images.samples, []
    if classifier.trained:
        return _labelled_as_trained(run, images, classifier, classifier.trained)
    if classifier.class_ids is not None:
        return _labelled_by_name(images, classifier), []
    samples, note = _labelled(run, images, classifier)
    return samples, [note] if note else []


def with_class_ids(run: Run, images: ImageList, classifier: Classifier) -> Classifier:
    """A network whose classes the user has named, with the data set's class index of each; others stay what they are."""
    if not isinstance(run.model, CustomModel) or run.model.classes is None or classifier.trained:
        return classifier
    index = {name: label for label, name in images.class_names.items()}
    beyond = 1 + max(index.values(), default=-1)  # classes that no image is of
    ids = tuple(index.get(name, beyond + k) for k, name in classifier.class_names.items())
    return replace(classifier, class_ids=ids)


def _labelled_by_name(images: ImageList, classifier: Classifier) -> tuple[Sample, ...]:
    """The samples, all of whose classes have to be among those that the network names."""
    for sample in images.samples:
        if sample.label is not None and classifier.output(sample.label) is None:
            names = list(classifier.class_names.values())
            raise UserError(
                f"image {sample.image} is of class '{images.class_names.get(sample.label, sample.label)}', which is none of "
                f"model.classes={','.join(names[:5])}{',...' if len(names) > 5 else ''}."
            )
    return images.samples


def _labelled_as_trained(
    run: Run, images: ImageList, classifier: Classifier, trained: Trained
) -> tuple[tuple[Sample, ...], list[str]]:
    """The samples with the class indices of the user's own checkpoint; classes are the same where their names are.

    Folders are numbered by the folders beside them, so that their index says nothing without the name.
    """
    if images.label_space != trained.label_space:
        note = f"labels of {run.dataset.name} are not the classes of model.checkpoint, which was trained on {trained.dataset}"
        if run.settings.target == "label":
            raise UserError(f"target=label: {note}; use target=predicted.")
        return tuple(replace(s, label=None) for s in images.samples), [f"{note}: they are not compared with predictions"]
    by_name = dict(zip(trained.class_names, trained.class_ids, strict=True))
    samples = []
    for sample in images.samples:
        if sample.label is not None:
            name = images.class_names[sample.label]
            index = by_name.get(name) if images.label_space == "folders" else sample.label
            output = None if index is None else classifier.output(index)
            if output is None or classifier.class_names[output] != name:
                raise UserError(
                    f"image {sample.image} is of class '{name}', which is none of the {classifier.num_classes} classes of "
                    "model.checkpoint: train on all classes of the data set, or leave the others out of its folder."
                )
            sample = replace(sample, label=index)
        samples.append(sample)
    if run.dataset.name == trained.dataset and getattr(run.dataset, "split", "test") != "test":
        return tuple(samples), ["the network was trained on some of these images; dataset.split=test leaves them out"]
    return tuple(samples), []


def _labelled(run: Run, images: ImageList, classifier: Classifier) -> tuple[tuple[Sample, ...], str | None]:
    """The samples for a network that does not say what it was trained on, and a note."""
    samples, outputs = images.samples, classifier.num_classes
    other = f"{run.dataset.name} has {len(images.class_names)} classes, {run.model.name} has {outputs} outputs"
    same_count = len(images.class_names) == outputs
    if images.label_space == "folders" and not same_count:
        if run.settings.target == "label":
            raise UserError(f"target=label: {other}; use target=predicted, or a network with as many classes.")
        note = f"{other}: labels are not compared with predictions{_training(run)}"
        return tuple(replace(s, label=None) for s in samples), note
    if run.settings.target == "label" and images.label_space != classifier.label_space and not same_count:
        raise UserError(f"target=label: {other}, so labels are not its classes; use target=predicted, or its own network.")
    if run.settings.target == "label" and any(s.label is None for s in samples):
        raise UserError(f"target=label: dataset '{run.dataset.name}' has images without label; use target=predicted.")
    worst = max(samples, key=lambda s: -1 if s.label is None else s.label)
    if worst.label is not None and worst.label >= outputs:
        raise UserError(
            f"image {worst.image} has class index {worst.label}, but {run.model.name} has {outputs} outputs (0 is the "
            "first): use a network (model.checkpoint=FILE, model.num_classes=K) made for this data set."
        )
    if images.label_space != classifier.label_space and not same_count:
        note = f"{other}: the wrong-class count means nothing unless the network was trained on these classes{_training(run)}"
        return samples, note
    return samples, None


def _training(run: Run) -> str:
    """The command that trains a network on the classes of a data set, where there is one for it."""
    dataset, model = run.dataset, run.model
    if dataset.name not in ("cub", "imagefolder"):
        return ""
    keys = f"dataset={dataset.name} dataset.root={dataset.root} model={model.name}"
    return f" (python -m experiments.train {keys} trains one)"
