"""Any classifier of timm, by its name there: ``convnext_tiny``, or with the tag of its weights ``convnext_tiny.fb_in1k``.

Weights come from the cache of the Hugging Face hub or, with a network connection, from its server; own weights from a
checkpoint. They are read as tensors (safetensors, or torch's files without unpickling) and handed to timm, which knows what
their keys are called today.

The preprocessing is that of timm's own configuration of the weights (``timm.data.resolve_model_data_config``), the target layer
the last one with places (:meth:`suny.classifiers.layers.Layers.default`).
"""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from urllib.error import HTTPError

import torch
from torch import nn

from suny.classifiers.checkpoint import load_state, outputs_of, read_content, read_state, read_trained
from suny.classifiers.classifier import Source, ViewedModel
from suny.classifiers.head import last_layer, replace_head
from suny.configured import configured
from suny.errors import UserError, nearest
from suny.images.view import View

# The names that files of weights have in the hub's repositories, the safest first.
_FILES = ("model.safetensors", "pytorch_model.bin")

# Weights that could not be had in this process, with what was said then: the other cells of a sweep don't try again.
_not_to_be_had: dict[str, str] = {}

# Seconds that the hub's server has to answer, before it counts as out of reach.
_PATIENCE = 10.0


@configured
class TimmModel(ViewedModel):
    """A classifier of timm.

    Args:
        arch: its name in ``timm.list_models()``, or with a tag of ``timm.list_pretrained()``.
        options: further arguments of ``timm.create_model``, such as ``img_size``; those that an own checkpoint was trained with
            stay.
    """

    arch: str
    options: Mapping[str, Any] | None = None

    packages: ClassVar[tuple[str, ...]] = ("timm",)

    def source(self) -> Source:
        given = dict(self.options or {})
        if self.checkpoint:
            return self._own(self.checkpoint, given)
        network = self._published(given) if self.weights == "pretrained" else self._network(given, self.num_classes)
        view, notes = self._view(network, given)
        outputs = self._declared().num_classes
        if self.weights == "pretrained" and outputs < 1000:
            notes.append(f"{self.arch} has {outputs} outputs: of CLIP and its kind they are an embedding, and no classes")
        return Source(network, view, None, options=given, notes=tuple(notes))

    def to_fetch(self) -> str | None:
        if self.checkpoint or self.weights != "pretrained":
            return None
        declared = self._declared()
        self._refuse_other_classes(declared)
        return None if _kept(declared) else _place(declared)

    def _own(self, file: str, given: dict[str, Any]) -> Source:
        """The network with the weights of a checkpoint, the project's own or another one."""
        trained = read_trained(file)
        options = given | (trained.options if trained else {})
        reference = self._network(options, None)
        state, notes = read_state(file, reference)
        classes = self.num_classes or (len(trained.class_ids) if trained else outputs_of(state, f"{_head(reference)}.weight"))
        network = self._network(options, classes)
        if trained:
            with torch.random.fork_rng(devices=[]):
                replace_head(network, trained.head, len(trained.class_ids))
        load_state(network, state, file, self.arch, trained.model if trained else None)
        view, more = self._view(network, options, trained.view if trained else None)
        return Source(network, view, None, trained, options, (*notes, *more))

    def _declared(self) -> Any:
        """timm's configuration of the weights that the name means.

        Raises:
            UserError: timm is not installed, or has no such classifier.
        """
        timm = _timm()
        known = timm.list_models()
        try:
            declared = timm.models.get_pretrained_cfg(self.arch)
        except (RuntimeError, KeyError):
            declared = None
        if self.arch.partition(".")[0] not in known or declared is None:
            named = nearest(self.arch, timm.list_pretrained() if "." in self.arch else known)
            raise UserError(
                f"model.arch={self.arch} is no classifier of timm {timm.__version__}. {named}timm.list_models() lists them; "
                "weights from elsewhere are given as model.checkpoint=FILE."
            )
        return declared

    def _refuse_other_classes(self, declared: Any) -> None:
        """Raises UserError where there are no published weights for the classes."""
        instead = "give model.checkpoint=FILE or model.weights=random"
        if not declared.has_weights:
            raise UserError(f"model.arch={self.arch}: timm has no weights for it; {instead}.")
        if not declared.num_classes:
            raise UserError(f"model.arch={self.arch}: its published weights give features and no classes; {instead}.")
        if self.num_classes not in (None, declared.num_classes):
            raise UserError(
                f"model.num_classes={self.num_classes}: the published weights of {self.arch} have {declared.num_classes} "
                f"classes; {instead}."
            )

    def _published(self, options: Mapping[str, Any]) -> nn.Module:
        """The network with timm's weights."""
        declared = self._declared()
        self._refuse_other_classes(declared)
        place = _place(declared)
        file = _kept(declared)
        if file is None and place in _not_to_be_had:
            raise UserError(_not_to_be_had[place])
        try:
            file = file or _fetched(declared)
        except Exception as error:  # of the client and of what lies below it: of any kind
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            _not_to_be_had[place] = (
                f"the weights of {self.arch} could not be had ({said}): fetch {place} where there is a network, and give it as "
                "model.checkpoint=FILE, or copy the hub's cache (HF_HOME) from there and set HF_HUB_OFFLINE=1; or give "
                "model.weights=random for a test; model=efficientnet_lite0 needs no download."
            )
            raise UserError(_not_to_be_had[place]) from error
        state = read_content(str(file))
        overlay = {"state_dict": state, "custom_load": False}
        network = self._network(options, None, pretrained=True, pretrained_cfg_overlay=overlay)
        network.pretrained_cfg = network.default_cfg = declared.to_dict()  # which would hold the weights as well
        return network

    def _network(self, options: Mapping[str, Any], classes: int | None, **more: Any) -> Any:
        """The network with random weights, drawn by seed, unless ``more`` says otherwise."""
        self._declared()
        said = {**more, **options, **({"num_classes": classes} if classes else {})}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                return _timm().create_model(self.arch, **said)
            except (TypeError, ValueError, AssertionError, RuntimeError) as error:
                given = f" with model.options={dict(options)}" if options else ""
                raise UserError(f"timm cannot make {self.arch}{given}: {str(error)[:300]}.") from error

    def _view(self, network: Any, options: Mapping[str, Any], trained: View | None = None) -> tuple[View, list[str]]:
        """The preprocessing, and what differs in it from timm's.

        Raises:
            UserError: images of several sizes, other channels, or a kind of resize that is not known here.
        """
        side = options.get("img_size")
        said = _timm().data.resolve_model_data_config(network, {"img_size": side} if isinstance(side, int) else None)
        channels, height, width = said["input_size"]
        fixed = isinstance(side, int) or bool(network.pretrained_cfg.get("fixed_input_size"))
        if channels != 3:
            raise UserError(f"model.arch={self.arch} takes images of {channels} channels; photographs have 3.")
        if height != width and (fixed or self.crop is None):
            raise UserError(f"model.arch={self.arch} takes images of {height} x {width} pixels; here they are square.")
        crop = self.crop or height
        if fixed and crop != height:
            raise UserError(
                f"model.crop={crop}: {self.arch} takes images of {height} x {height} pixels and no others; give "
                f"model.options={{img_size:{crop}}} in its place."
            )
        resize = self.resize or int(crop / said["crop_pct"])
        if trained:
            return self.seen(trained), []
        interpolation = self.interpolation or said["interpolation"]
        if interpolation not in ("bilinear", "bicubic"):
            raise UserError(
                f"timm resizes images for {self.arch} with interpolation '{interpolation}': give model.interpolation=bicubic."
            )
        usual = View(resize, crop, interpolation, tuple(said["mean"]), tuple(said["std"]))
        notes = []
        if said["crop_mode"] != "center":
            notes.append(
                f"timm evaluates {self.arch} with crop_mode={said['crop_mode']}; here the shorter side is resized to {resize} "
                f"pixels and the centre of {crop} x {crop} is cut out"
            )
        return self.seen(usual), notes


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError(
            "model=timm needs the package timm: pip install 'suny-benchmark[timm]', in a checkout pip install -e '.[timm]'."
        ) from error
    return timm


def _head(network: Any) -> str:
    """The layer that timm calls the classifier; of several the first."""
    said = network.pretrained_cfg.get("classifier")
    return said if isinstance(said, str) else said[0] if said else last_layer(network)


def _repository(declared: Any) -> tuple[str, str | None]:
    """The hub's repository of weights, and its revision; None: the newest."""
    name, _, revision = str(declared.hf_hub_id).partition("@")
    return name, revision or None


def _files(declared: Any) -> Sequence[str]:
    return (declared.hf_hub_filename,) if declared.hf_hub_filename else _FILES


def _place(declared: Any) -> str:
    """Where published weights can be fetched."""
    if not declared.hf_hub_id:
        return str(declared.url)
    from huggingface_hub import constants

    return f"{_files(declared)[0]} from {constants.ENDPOINT}/{_repository(declared)[0]}"


def _torch_file(declared: Any) -> Path:
    """The file in torch's cache of weights that no repository of the hub has."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(declared.url).rpartition("/")[2]


def _kept(declared: Any) -> Path | None:
    """The file of published weights in the hub's cache, or torch's; None where it is not there."""
    if not declared.hf_hub_id:
        return _torch_file(declared) if _torch_file(declared).exists() else None
    from huggingface_hub import try_to_load_from_cache

    name, revision = _repository(declared)
    found = [try_to_load_from_cache(name, file, revision=revision) for file in _files(declared)]
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _fetched(declared: Any) -> Path:
    """Downloads published weights into the cache."""
    if not declared.hf_hub_id:
        _torch_file(declared).parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(declared.url, str(_torch_file(declared)))
        return _torch_file(declared)
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    if not constants.HF_HUB_OFFLINE:
        _reach(constants.ENDPOINT)
    name, revision = _repository(declared)
    *others, last = _files(declared)
    for file in others:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # the server could not be asked
                raise
    return Path(hf_hub_download(name, last, revision=revision))


def _reach(server: str) -> None:
    """Raises OSError where a server can't be reached: the hub's client would try for a minute."""
    try:
        with urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=_PATIENCE):
            pass
    except HTTPError:  # it has answered
        pass
