"""The scoring engine: the one place that runs the network.

It owns a prepared copy (cut at the target layer, batch norms folded, channels_last), so the caller's network is never
touched. Work is cut into batches of one size; perturbed images are built batch by batch, so memory is bounded by the
batch size, not by the number of perturbations. Where the device has too little memory for a batch, batches are halved from
there on. Every image that passes is counted.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from suny.classifiers import outputs
from suny.classifiers.classifier import Classifier
from suny.classifiers.copies import own_copy
from suny.classifiers.layers import CHANNELS_FIRST, Layout
from suny.classifiers.outputs import Reading
from suny.classifiers.split import Carried, TracedSplit, split
from suny.errors import UserError

DEFAULT_BATCH_SIZE = {"cpu": 8, "cuda": 64}  # fastest measured on two CPU cores; a card wants more

# A batch of smaller images has as many more as have the same number of pixels, up to this factor.
_USUAL_PIXELS, _MOST = 224**2, 8

# What calibration tries; a larger batch has to be faster by this much to be worth its memory.
_TRIED = {"cpu": (4, 8, 16, 32), "cuda": (32, 64, 128, 256)}
_WORTH = 1.03

# What PyTorch says, in a plain RuntimeError, where the memory of the CPU does not suffice, or that of a card for CUDA itself
# or one of its libraries (cuBLAS, cuDNN, cuSOLVER).
_NO_MEMORY = ("can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")

T = TypeVar("T")

Precision = Literal["float32", "bf16"]
BatchSize = int | Literal["auto"] | None
Output = Literal["probability", "logit"]
GradientOf = Literal["logit", "log_probability"]

# What PyTorch says where a gradient is asked for that an operation does not pass on: of quantised weights, behind a detach().
_NO_GRADIENT = ("does not require grad", "not have been used in the graph", "derivative for", "does not have autograd")


class NoGradient(UserError):
    """The network passes no gradient from its outputs to the place where it is asked for."""


@dataclass
class Cost:
    """Images that passed: through the whole network, through the tail alone, and backwards."""

    forwards: int = 0
    tail_forwards: int = 0
    backwards: int = 0

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards - other.forwards,
            self.tail_forwards - other.tail_forwards,
            self.backwards - other.backwards,
        )


def to_channels_last(network: nn.Module) -> None:
    """Lays a network's weights out with channels last; tensors of other than four axes (Swin's five) stay as they are."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


def pick_device(name: str) -> torch.device:
    """``auto``: CUDA where there is one, else the CPU.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: this PyTorch sees no CUDA device; use device=cpu, or device=auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Engine:
    """Runs a classifier.

    Args:
        network: maps a normalised batch (N, C, H, W) to outputs (:mod:`suny.classifiers.outputs`), in evaluation mode; it
            is copied, not changed. :attr:`network` is the prepared copy, :attr:`source` what was given.
        target_layer: name of the submodule at which it is cut; None: it is not cut, and only whole passes can be made.
        size: (H, W) of the input.
        device: where.
        precision: ``float32`` (TensorFloat-32 off), or ``bf16`` autocast; probabilities are float32 either way.
        batch_size: images a pass; None: 8 on a CPU, 64 on CUDA (of 64 x 64 pixels eight times as many); ``auto``: the
            fastest, found by a short calibration. Which it is can change the last digits of a result, so reruns should name
            the number (:attr:`batch_size`, which is smaller than what was given once memory has not sufficed).
        compile: have torch.compile fuse the network's operations, which changes the last digits of its outputs; takes a
            minute once, and a C++ compiler on a CPU.
        reading: how class probabilities are read from the outputs.
        layout: of what the target layer returns; activations are (N, C, h, w) whatever it is.
        probe: an image that the network takes, (1, C, H, W), for the passes that prepare it; None: noise of three channels.
        no_layer: why there is no target layer, as a sentence, for what asks for one.

    Raises:
        UserError: a network whose scores depend on batch mates, or one that can't be compiled.
    """

    def __init__(
        self,
        network: nn.Module,
        target_layer: str | None,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        batch_size: BatchSize = None,
        compile: bool = False,
        reading: Reading = "softmax",
        layout: Layout = CHANNELS_FIRST,
        probe: Tensor | None = None,
        no_layer: str = "",
    ) -> None:
        _refuse_batch_statistics(network)
        self.device = torch.device(device)
        self.source = network
        self.target_layer = target_layer
        self.size = size
        self.precision: Precision = precision
        self.reading: Reading = reading
        self.layout = layout
        self.probe = probe
        self.no_layer = no_layer
        self.batch_size = batch_size if isinstance(batch_size, int) else default_batch_size(self.device, size)
        with torch.inference_mode(False):  # weights made in it could not take part in gradients later
            cut = split(network, target_layer, size, reading, layout, probe, no_layer)
            self.network = cut.eval().requires_grad_(False).to(self.device)
            to_channels_last(self.network)
        self.compile = compile
        self.network.register_forward_pre_hook(self._count)
        self._most_tails: int | None = None  # once memory has not sufficed
        self._cost = Cost()
        self._randomised: dict[tuple[int, int], Engine] = {}
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
        if compile:
            self._compile()
        if batch_size == "auto":
            self.batch_size = self._calibrated(size)

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        batch_size: BatchSize = None,
        compile: bool = False,
    ) -> Self:
        """The engine of a classifier, at its target layer and input size."""
        side = classifier.view.crop
        return cls(
            classifier.network,
            classifier.target_layer,
            (side, side),
            device,
            precision,
            batch_size,
            compile,
            classifier.reading,
            classifier.layout,
            no_layer=classifier.no_layer,
        )

    @property
    def cost(self) -> Cost:
        """What has passed since the engine was made (a copy; differences of two give the cost of what lay between)."""
        return Cost(**vars(self._cost))

    @property
    def tail_batch_size(self) -> int:
        """Activations a pass of the tail: as many as fit 2 MiB for each image of a batch, where tails cost less than passes."""
        if not self.network.tail_only:
            return self.batch_size
        usual = max(self.batch_size, self.batch_size * 2**21 // self._activation_bytes)
        return min(usual, self._most_tails or usual)

    @cached_property
    def _activation_bytes(self) -> int:
        """Of one image's activation at the target layer."""
        with self._running():
            return self.network.head(self._laid_out(self._blank(1)))[0].nbytes

    def _blank(self, count: int) -> Tensor:
        """Images that only have to pass: zeros, or copies of the probe."""
        return torch.zeros(count, 3, *self.size) if self.probe is None else self.probe.expand(count, -1, -1, -1)

    def fitting(self, run: Callable[[], T]) -> T:
        """What ``run`` returns, started again with half of the engine's batch size as long as memory does not suffice.

        For what allocates memory beside the engine's own passes, which take care of themselves. The engine keeps the size from
        there on.

        Raises:
            UserError: there is no memory for a single image.
        """
        while not (found := self._fits(run)):
            self._lower(self.batch_size)
        return found[0]

    def _fits(self, run: Callable[[], T]) -> list[T]:
        """What ``run`` returns; nothing, and nothing counted, where memory does not suffice."""
        before = self.cost
        try:
            return [run()]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # outside of the handler, which would hold what the failed pass has allocated
        vars(self._cost).update(vars(before))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return []

    def _lower(self, tried: int, tail: bool = False) -> None:
        """Halves the batches after one of a size that there was no memory for."""
        if tried == 1:
            raise UserError(
                f"device={self.device.type} has too little memory for a single image: free some of it, or choose a smaller "
                "network or another device."
            )
        if tail:
            self._most_tails = tried // 2
        else:
            self.batch_size = tried // 2
        what = "activations" if tail else "images"
        said = f"note: too little memory for a batch of {tried} {what}: batches have at most {tried // 2} from here on"
        tqdm.write(said, file=sys.stderr)

    @property
    def gradient_batch_size(self) -> int:
        """Images a pass where gradients by pixels are taken: on a CPU no more than usual, for all activations are kept."""
        return (
            self.batch_size if self.device.type != "cpu" else min(self.batch_size, default_batch_size(self.device, self.size))
        )

    def logits(self, images: Tensor) -> Tensor:
        """Logits of a batch of any length.

        Args:
            images: normalised, (N, 3, H, W).

        Returns: float32 (N, K) on the engine's device; of outputs that are probabilities their logarithms.
        """
        return outputs.logits(self._all_rows(images), self.reading)

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (N, K), float32 in [0, 1]; where ``output=logit`` the outputs themselves."""
        return self.read(self._all_rows(images))

    def read(self, rows: Tensor) -> Tensor:
        """The probabilities (N, K) in what :attr:`network` returns."""
        return outputs.probabilities(rows.float(), self.reading)

    def _all_rows(self, images: Tensor) -> Tensor:
        return self._batched(len(images), lambda part: images[part], self._rows)

    def score(self, count: int, build: Callable[[slice], Tensor], target: int, output: Output = "probability") -> Tensor:
        """p_c of images that are built batch by batch.

        Args:
            count: how many images there are.
            build: makes the images of a slice of 0..count, (n, 3, H, W), on the engine's device.
            target: the class c.
            output: ``logit`` for the class's logit instead.

        Returns: probability of the class, float32 (count,), in [0, 1].
        """
        return self._batched(count, build, lambda images: self._of_class(self._rows(images), target, output))

    def activations(self, images: Tensor) -> tuple[Tensor, Carried]:
        """The target layer's activation (N, C, h, w), and what the tail needs beside it; counted as a forward."""
        with self._running():
            self._cost.forwards += len(images)
            return self.network.head(self._laid_out(images))

    def score_tail(
        self,
        count: int,
        build: Callable[[slice], Tensor],
        carried: Carried,
        target: int,
        output: Output = "probability",
    ) -> Tensor:
        """p_c of activations that are built batch by batch; only the tail runs where the network could be traced.

        Tails are short, so their batches are larger (:attr:`tail_batch_size`).

        Args:
            count: how many activations there are.
            build: makes the activations of a slice of 0..count, (n, C, h, w).
            carried: of one image (N = 1), as :meth:`activations` returned it.
            target: the class c.
            output: ``logit`` for the class's logit instead.

        Returns: probability of the class, float32 (count,).
        """

        def run(activation: Tensor) -> Tensor:
            n = len(activation)
            self._cost.tail_forwards += n
            with self._running():
                beside = tuple(c.expand(n, *c.shape[1:]) for c in carried)
                return self._of_class(self.network.tail(activation, beside).float(), target, output)

        return self._batched(count, build, run, tail=True)

    def activation_gradient(self, images: Tensor, targets: Tensor, of: GradientOf = "logit") -> tuple[Tensor, Tensor]:
        """The target layer's activation and the gradient of the class's logit by it; one forward, one backward.

        Args:
            images: (N, 3, H, W) with N at most a batch.
            targets: class indices (N,).
            of: ``log_probability`` for the gradient of log p_c instead.

        Returns: activation and gradient, float32 (N, C, h, w) each.

        Raises:
            NoGradient: the layers behind the target layer pass none.
        """
        with torch.inference_mode(False), torch.no_grad(), self._autocast():
            self._cost.forwards += len(images)
            activation, carried = self.network.head(self._laid_out(images.clone()))
        with torch.inference_mode(False), torch.enable_grad(), self._autocast():
            activation = activation.detach().requires_grad_()
            with _passing_gradients("the target layer"):
                values = self._differentiated(self.network.tail(activation, carried).float(), of)
                chosen = values.gather(1, targets.to(self.device).clone()[:, None]).sum()
                (gradient,) = torch.autograd.grad(chosen, activation)
            self._cost.backwards += len(images)
        return activation.detach().float(), gradient.float()

    def input_gradient(self, images: Tensor, target: int, output: GradientOf = "logit") -> Tensor:
        """The gradient of a class's logit, or of log p_c, by the pixels; a forward and a backward an image.

        Args:
            images: normalised, (N, 3, H, W), of any number.
            target: the class c.
            output: of what.

        Returns: float32 (N, 3, H, W).

        Raises:
            NoGradient: some layer passes none.
        """

        def gradient(part: Tensor) -> Tensor:
            with self.differentiable() as network:
                inputs = part.clone().requires_grad_()
                with _passing_gradients("the image"):
                    values = self._differentiated(network(inputs).float(), output)
                    (found,) = torch.autograd.grad(values[:, target].sum(), inputs)
            return found.float()

        return self._batched(len(images), lambda part: images[part], gradient, gradient=True)

    @contextmanager
    def differentiable(self) -> Iterator[nn.Module]:
        """The network for libraries that run it themselves: gradients on, forward and backward passes counted."""
        with torch.inference_mode(False), torch.enable_grad(), self._autocast():
            yield self.network

    def randomised(self, seed: int) -> Engine:
        """An engine whose network has the same architecture and random weights; its passes count as this one's.

        One engine a seed is made and kept; :func:`randomise` says how.
        """
        return self._random(seed, layers_with_weights(self._plain))

    def cascade(self, stages: int, seed: int) -> Iterator[tuple[str, Engine]]:
        """Engines whose networks are randomised from the output down, cumulatively.

        Args:
            stages: how many, evenly spread over the layers with weights; in the last one all are random.
            seed: of the weights; each layer draws its own.

        Yields: the lowest layer that is random, and the engine; each is made once and kept.
        """
        layers = layers_with_weights(self._plain)
        for count in sorted({-(-len(layers) * stage // stages) for stage in range(1, stages + 1)}):
            chosen = layers[len(layers) - count :]
            yield chosen[0], self._random(seed, chosen)

    def _random(self, seed: int, layers: Sequence[str]) -> Engine:
        key = seed, len(layers)
        if key not in self._randomised:
            with torch.inference_mode(False):
                network = randomise(self._plain, seed, layers)
            engine = Engine(
                network,
                self.target_layer,
                self.size,
                self.device,
                self.precision,
                self.batch_size,
                self.compile,
                self.reading,
                self.layout,
                self.probe,
                self.no_layer,
            )
            engine._cost = self._cost
            self._randomised[key] = engine
        return self._randomised[key]

    @cached_property
    def _plain(self) -> nn.Module:
        """The source with weights that are what they seem: those that are computed from others would not stay random."""
        return own_copy(self.source)

    def _rows(self, images: Tensor) -> Tensor:
        with self._running():
            return self.network(self._laid_out(images)).float()

    def _of_class(self, rows: Tensor, target: int, output: Output) -> Tensor:
        values = self.read(rows) if output == "probability" else outputs.logits(rows, self.reading)
        return values[:, target]

    def _differentiated(self, rows: Tensor, of: GradientOf) -> Tensor:
        return (outputs.evidence if of == "logit" else outputs.log_probabilities)(rows, self.reading)

    def _batched(
        self,
        count: int,
        build: Callable[[slice], Tensor],
        run: Callable[[Tensor], Tensor],
        gradient: bool = False,
        tail: bool = False,
    ) -> Tensor:
        if count == 0:
            return torch.empty(0, device=self.device)
        done: list[Tensor] = []
        start = 0
        while start < count:
            part = slice(start, min(start + self._size(gradient, tail), count))
            found = self._fits(lambda part=part: run(build(part)))  # type: ignore[misc]
            if found:
                done += found
                start = part.stop
            else:
                self._lower(part.stop - part.start, tail)
        return torch.cat(done)

    def _size(self, gradient: bool, tail: bool) -> int:
        """Images a pass of a kind."""
        return self.tail_batch_size if tail else self.gradient_batch_size if gradient else self.batch_size

    def _calibrated(self, size: tuple[int, int], seconds: float = 0.5) -> int:
        """The batch size with the most images a second, each timed for so long; what passes is not counted."""
        best, fastest = self.batch_size, 0.0
        for tried in _TRIED.get(self.device.type, (self.batch_size,)):
            images = self._blank(tried).to(self.device)
            try:
                float(self._rows(images)[0, 0])  # a warm-up, which is waited for as the others are
                passes, start = 0, time.perf_counter()
                while time.perf_counter() - start < seconds:
                    float(self._rows(images)[0, 0])
                    passes += 1
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                break
            rate = passes * tried / (time.perf_counter() - start)
            if rate > fastest * _WORTH:
                best, fastest = tried, rate
        self._cost = Cost()
        return best

    def _compile(self) -> None:
        """Compiles head and tail, and runs each once, so that what stands in the way is told now."""
        if not isinstance(self.network, TracedSplit):
            raise UserError("compile=true: this network can't be traced, so that it can't be compiled; use compile=false.")
        self.network.head_graph.compile()
        self.network.tail_graph.compile()
        try:
            self._rows(self._blank(1))
        except Exception as error:  # of many kinds: no compiler, a broken one, an operation that it does not know
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"compile=true: torch.compile failed ({said[0][:200]}); use compile=false.") from error
        self._cost = Cost()

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.to(self.device, memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with torch.inference_mode(), self._autocast():
            yield

    def _count(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._cost.forwards += len(inputs[0])
        if torch.is_grad_enabled():
            self._cost.backwards += len(inputs[0])


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of a card or of the machine, did not suffice."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


def _refuse_batch_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise UserError(
                f"the network's layer {name} normalises by the statistics of its batch (track_running_stats=False): an "
                "image's scores would depend on its batch mates; use a network with running statistics."
            )


@contextmanager
def _passing_gradients(where: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not any(said in str(error) for said in _NO_GRADIENT):
            raise
        raise NoGradient(
            f"the network passes no gradient from its outputs to {where} (a detach(), or quantised weights): use a method that "
            "takes forward passes only, such as rise, occlusion, scorecam or suny with cause=region."
        ) from error


def layers_with_weights(network: nn.Module) -> list[str]:
    """Names of the modules that have parameters of their own, in the order of their definition, input first."""
    return [name for name, module in network.named_modules() if next(module.parameters(recurse=False), None) is not None]


def randomise(network: nn.Module, seed: int, layers: Sequence[str]) -> nn.Module:
    """A copy of a network in which some layers have random weights; each draws from a seed of its own.

    Convolutions and linear layers get He's normal initialisation, so that signals keep their scale; normalisations and
    others what they have when they are made.
    """
    network = own_copy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name in layers:
            module: Any = network.get_submodule(name)
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big"))
            if isinstance(module, nn.Conv2d | nn.Linear):
                padding = (module.weight == 0).all(0).all(0)  # places of a kernel that were only added to fold a padding in
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.weight[..., padding] = 0
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return network


def default_batch_size(device: torch.device, size: tuple[int, int]) -> int:
    """Images of a size a pass where nobody says how many: fixed for a kind of device, so that reruns repeat."""
    more = min(max(_USUAL_PIXELS // (size[0] * size[1]), 1), _MOST)
    return DEFAULT_BATCH_SIZE.get(device.type, 8) * more


def batches(count: int, size: int) -> Iterator[slice]:
    """0..count cut into slices of a size; the last one may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
