"""A network of the user's own: what a function or class returns that is named by its import path.

    # my_networks.py in the current folder, or an installed package
    def make(width: int = 64) -> nn.Module: ...

    python run.py model=custom model.factory=my_networks:make model.arguments={width:32} model.checkpoint=mine.pth model.crop=96

It is tried before anything is computed (:class:`suny.entry.Network`); what it returns may have any form that
:mod:`suny.classifiers.outputs` reads.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from suny import entry
from suny.classifiers.checkpoint import load_state, read_state, read_trained
from suny.classifiers.classifier import Classifier, Source, ViewedModel, finish
from suny.classifiers.head import replace_head
from suny.configured import configured, remember
from suny.errors import UserError, nearest
from suny.images.view import View

# Whose classes a factory may return: an error inside them is none of a class of the user's own.
_LIBRARIES = ("torch", "torchvision", "timm", "transformers")

# What most classifiers of photographs are trained with.
_USUAL = View(resize=256, crop=224, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@configured
class CustomModel(ViewedModel):
    """A network that the user's own code makes.

    Args:
        factory: ``module:name`` or ``module.name`` of a function or class that returns it, a ``torch.nn.Module``; a module is
            looked for in the current folder too.
        arguments: with which it is called.
        classes: their names, by output; the labels of a data set are then found by name.
        channels: the order in which the network takes them; None: the checkpoint's, or ``rgb``. ``mean`` and ``std`` are those
            of R, G and B either way.
        resize, crop, interpolation, mean, std: as in :class:`~suny.classifiers.classifier.ViewedModel`; the usual ones are
            ImageNet's.
        num_classes: how many classes the network must have; None: any number.
    """

    factory: str
    arguments: Mapping[str, Any] | None = None
    classes: Annotated[list[str], Field(min_length=1)] | None = None
    channels: Literal["rgb", "bgr"] | None = None

    def build(self) -> Classifier:
        source = self.source()
        image = torch.randn(1, 3, source.view.crop, source.view.crop, generator=torch.Generator().manual_seed(0))
        try:
            entry.Network(source.network, image, "logit")
            classifier = finish(self, source)
        except UserError as error:
            raise UserError(f"model.factory={self.factory}, {_whose(type(source.network))}: {error}") from error
        outputs = classifier.num_classes
        if self.num_classes not in (None, outputs):
            raise UserError(f"model.num_classes={self.num_classes}: the network of model.factory={self.factory} has {outputs}.")
        if self.classes is not None:
            if len(self.classes) != outputs or len(set(self.classes)) != outputs:
                raise UserError(
                    f"model.classes has {len(set(self.classes))} different names, and the network of "
                    f"model.factory={self.factory} {outputs} classes: give one for each, in the order of its outputs."
                )
            classifier = replace(classifier, class_names=dict(enumerate(self.classes)), label_space="own")
        return replace(classifier, factory=_digest(_found(self.factory), source.network))

    def source(self) -> Source:
        trained = read_trained(self.checkpoint) if self.checkpoint else None
        arguments = dict(self.arguments or {}) | (trained.options if trained else {})
        network = self._made(arguments)
        notes: tuple[str, ...] = ()
        if self.checkpoint:
            state, notes = read_state(self.checkpoint, network)
            if trained:
                with torch.random.fork_rng(devices=[]):
                    replace_head(network, trained.head, len(trained.class_ids))
            advice = "Give the model.arguments that it was made with (its number of classes, say)"
            load_state(network, state, self.checkpoint, f"model.factory={self.factory}", advice=advice)
        view, more = self._view(trained.view if trained else None)
        return Source(network, view, None, trained, arguments, (*notes, *more))

    def _made(self, arguments: Mapping[str, Any]) -> nn.Module:
        """What the factory returns, on the CPU, float32; its random numbers are drawn by seed."""
        factory = _found(self.factory)
        try:
            inspect.signature(factory).bind(**arguments)
        except TypeError as error:
            raise UserError(f"model.arguments: {error}; {self.factory} takes {inspect.signature(factory)}.") from error
        except ValueError:  # a function without a signature
            pass
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                made = factory(**arguments)
            except UserError:
                raise
            except Exception as error:  # of the user's code: of any kind
                raise UserError(f"model.factory={self.factory}, {_whose(factory, error)}: {_said(error)}.") from error
        if not isinstance(made, nn.Module):
            raise UserError(
                f"model.factory={self.factory}, {_whose(factory)}, returned a {type(made).__name__}; it has to return the "
                "network, a torch.nn.Module."
            )
        if type(made).__module__.partition(".")[0] not in _LIBRARIES:
            remember(type(made))
        return made.cpu().float()

    def _view(self, trained: View | None) -> tuple[View, tuple[str, ...]]:
        """The preprocessing, and a note on what of it nobody has said."""
        usual = trained or _USUAL
        if not trained and self.crop:
            usual = replace(usual, resize=round(self.crop * _USUAL.resize / _USUAL.crop))
        view = replace(self.seen(usual), channels=self.channels or usual.channels)
        unsaid = [key for key in ("crop", "interpolation", "mean", "std") if getattr(self, key) is None]
        if trained or not unsaid:
            return view, ()
        values = ", ".join(f"model.{key}={_shown(getattr(view, key))}" for key in unsaid)
        return view, (f"the preprocessing that is not given is the usual one: {values}",)


def _found(path: str) -> Callable[..., Any]:
    """The function or class with an import path.

    Raises:
        UserError: there is none.
    """
    key = f"model.factory={path}"
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    if not module or not name:
        raise UserError(f"{key}: give module:name of a function or class that returns the network.")
    folder = os.getcwd()
    if not {"", folder} & set(sys.path):
        sys.path.append(folder)  # after everything else, so that its modules stand in nobody's way
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{key}: there is no module {module} in {folder}, nor an installed one.") from error
        raise UserError(f"{key}: {module} imports {error.name}, which is not installed.") from error
    except Exception as error:  # of the user's code: of any kind
        file = getattr(error, "filename", None) or importlib.util.find_spec(module.partition(".")[0])
        raise UserError(f"{key} cannot be imported ({getattr(file, 'origin', file)}): {_said(error)}.") from error
    try:
        found = functools.reduce(getattr, name.split("."), imported)
    except AttributeError as error:
        close = nearest(name, [n for n, v in vars(imported).items() if callable(v)])
        raise UserError(f"{key}: {imported.__file__} has no {name}. {close}".strip()) from error
    if isinstance(found, nn.Module):
        raise UserError(f"{key} is a network already: give a function or class that makes one.")
    if not callable(found):
        raise UserError(f"{key} is a {type(found).__name__}: give a function or class that returns the network.")
    if hasattr(found, "__qualname__"):
        remember(found)
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; debug=true shows the traceback"


def _shown(value: Any) -> str:
    return f"[{','.join(f'{v:g}' for v in value)}]" if isinstance(value, tuple) else str(value)


def _file(made: Any) -> str | None:
    """The file in which a class or function is defined."""
    try:
        return inspect.getsourcefile(made)
    except TypeError:  # of a built-in one, or in a notebook
        return None


def _whose(made: Any, error: Exception | None = None) -> str:
    """A class or function with its file, and the line in it that an exception has gone through."""
    file = _file(made)
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file] if error else []
    kind = "class" if isinstance(made, type) else "function"
    return f"{kind} {getattr(made, '__qualname__', made)} ({file}{f', line {lines[-1]}' if lines else ''})"


def _digest(factory: Any, network: nn.Module) -> str:
    """SHA-256 of the files that define the factory and the classes of its network, installed packages aside.

    The weights have a digest of their own; what the network computes with them is said here.
    """
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")}
    first = _file(factory)
    files = {Path(f).resolve() for f in (first, *map(_file, map(type, network.modules()))) if f and Path(f).is_file()}
    own = [f for f in files if str(f) == str(first) or not installed & set(f.parents)]
    digests = {hashlib.sha256(f.read_bytes()).hexdigest() for f in own}
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
