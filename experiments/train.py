"""Trains a classifier for the benchmark: ``python -m experiments.train [key=value ...]``.

    python -m experiments.train dataset=cub dataset.root=PATH model=resnet50 recipe=finetune device=cuda out=birds.safetensors
    python run.py dataset=cub dataset.root=PATH model=resnet50 model.checkpoint=birds.safetensors

Writes a checkpoint that needs nothing else, and its learning curve as a picture beside it. The data set's official train part
is learnt from, some of it held back to choose the epoch; its test part is used once, at the end. Keys:

    dataset=cub|imagefolder    dataset.root=PATH, dataset.limit=K images of each part; a folder's parts: dataset.split_seed=S,
                               dataset.test_share=0.3, where it has no folders train and test (or val)
    model=NAME                 efficientnet_lite0, resnet50, vgg16, inception_v3, another torchvision classifier, timm
                               (model.arch=NAME), or custom (model.factory=my_module:make);
                               model.checkpoint=FILE to start from own weights, model.target_layer=, model.resize=, ...
    recipe=head|finetune       conf/recipe documents their keys: recipe.lr=, recipe.epochs=, recipe.head=linear|mlp, ...
    out=FILE                   the checkpoint, .safetensors
    seed=S device=auto|cpu|cuda workers=N held_back=0.1 caches=DIR

The same command continues where it was stopped, and says at once what it came to when it is finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.command.options import wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.store.records import writing
from experiments.training import course
from suny.errors import UserError


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    training = course.read(list(arguments))
    out = Path(training.settings.out).expanduser()
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            trained = course.finished(out, training.digest) or course.run(training, out)
    except Timeout:
        raise UserError(f"out={out} is being trained by another process: wait for it, or give another out=FILE.") from None
    print(f"{course.report(trained)}\n\ncheckpoint: {out}\nlearning curve: {out.with_suffix('.png')}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:]), "train"))
