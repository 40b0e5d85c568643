"""All that needs a GPU, in one command: ``make test-gpu``, or ``python -m experiments.benchmark.gpu [key=value ...]``.

    equal    every method's maps and every metric beside the CPU's, in float32 and bf16 (experiments/benchmark/agreement.py)
    oom      explanations with too little memory: batches are halved, numbers and counted passes stay
    memory   the peak of every method
    joblib   hydra/launcher=joblib_gpu: every job sees one GPU, and records the same as a run of its own
    speed    throughput of explainers and metrics beside the plain network's; 85 % is the goal
    error    the errors of every metric in bf16 and with torch.compile, and the gain in speed

Every figure goes to one table with the GPU's name, beside its limits where it has some; the exit code is 1 where one is not
met. Without a GPU it says so and ends with 0. Keys:

    part=all           a part, or several: part=equal,oom; the others' figures of the same GPU and code stay in the table
    seconds=2          how long each throughput is measured
    out=results/benchmark/gpu     the table, as .csv and .md
    device=cuda        cpu: the same code without a GPU
    quick=false        true: small networks and few images, to see that it works
"""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from tqdm import tqdm

from experiments.benchmark import agreement, error
from experiments.benchmark.common import Figure, explainer, network, photograph
from experiments.benchmark.memory import methods
from experiments.benchmark.ratios import Ratios
from experiments.cell.cell import run_cell
from experiments.cell.ending import FinishedCell
from experiments.command import configuration as config
from experiments.command.options import Names, Place, Positive, parse
from experiments.command.program import EXIT_DEFECT, EXIT_OK, composed, guarded
from experiments.jobs.machine import forget_peak, held_memory, peak_memory
from experiments.store.card import environment
from experiments.store.records import read_records, write_atomically, writing
from experiments.tables.text import table as text_table
from suny.classifiers.classifier import Classifier
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Engine, pick_device
from suny.configured import configured
from suny.errors import UserError, nearest

# The goal is a percentage of the plain network's throughput.
GOAL = 85.0

# An explanation is left this share of the memory that it takes beside what is held before.
_SHARE = 0.4

# A CPU that stands for the GPU has room for so many images or activations per pass.
_ROOM = 20

# These run out of memory by different things: masks, masks made beside the engine's passes, gradients by a library,
# gradients, tails.
_GREEDY = {
    "scorecam": [],
    "rise": ["method.masks=256"],
    "integrated_gradients": ["method.steps=64"],
    "smoothgrad_vanilla": ["method.samples=64"],
    "suny_filter": [],
}

_ROOT = config.CONF.parent


@dataclass(frozen=True)
class Check(Figure):
    """A figure with its limits: at most, at least; None where it has none."""

    part: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def ok(self) -> bool | None:
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)


@configured
class Options:
    """The keys of the command: which parts run, where, with how many seconds per throughput, and whether on small networks."""

    part: Names = ("all",)
    seconds: Positive = 2.0
    out: Place = Path("results/benchmark/gpu")
    device: Literal["cuda", "cpu"] = "cuda"
    quick: bool = False

    @property
    def torch_device(self) -> torch.device:
        return pick_device(self.device)

    @property
    def large(self) -> str:
        return "causal_cnn" if self.quick else "resnet50"


def equal(options: Options) -> Iterator[Check]:
    subjects = [agreement.Subject(s.overrides, 1) for s in agreement.SUBJECTS[:1]] if options.quick else agreement.SUBJECTS
    with tempfile.TemporaryDirectory() as root, tqdm(total=agreement.steps(subjects), unit="step") as progress:
        for difference in agreement.compare(options.torch_device, root, progress, subjects):
            what = f"{difference.what}, {difference.precision}"
            yield Check(difference.network, what, difference.value, difference.unit, most=difference.most)


def oom(options: Options) -> Iterator[Check]:
    classifier = network(options.large)
    for name, overrides in _GREEDY.items():
        method = explainer(f"method={name}", *overrides)
        whole, engine = Engine.of(classifier, options.torch_device), Engine.of(classifier, options.torch_device)
        image, target = photograph(classifier, engine)
        started, before = (engine.batch_size, engine.tail_batch_size), engine.cost
        held = held_memory(options.torch_device)
        forget_peak(options.torch_device)
        true = method.explain(whole, image, target, [0]).saliency[0]
        with _little_memory(engine, _SHARE * (peak_memory(options.torch_device) - held)):
            saliency = engine.fitting(partial(method.explain, engine, image, target, [0])).saliency[0]
        ended = engine.batch_size, engine.tail_batch_size
        images = partial(Check, classifier.name, unit="images")
        yield images(f"{name}: batches, before", float(started[0]))
        yield images(f"{name}: batches, with little memory", float(ended[0]))
        yield images(f"{name}: tails per batch, before", float(started[1]))
        yield images(f"{name}: tails per batch, with little memory", float(ended[1]))
        yield Check(classifier.name, f"{name}: batches are halved", float(ended < started), "", least=1.0)
        passes = [sum(vars(cost).values()) for cost in (whole.cost, engine.cost - before)]
        yield images(f"{name}: passes counted beyond those needed", float(abs(passes[0] - passes[1])), most=0.0)
        off, most, unit = agreement.map_difference(name, [saliency.cpu()], [true.cpu()])
        yield Check(classifier.name, f"{name}: map with little memory", off, unit, most=most)


def memory(options: Options) -> Iterator[Check]:
    classifier = network(options.large)
    engine = Rehearsal.of(classifier, options.torch_device)
    engine.limit = 0.0  # every kind of batch runs once; the others take no more
    image, target = photograph(classifier, engine)
    for name in tqdm(methods(), "memory", unit="method"):
        engine.forget()
        engine.begin()
        forget_peak(options.torch_device)
        explainer(f"method={name}").explain(engine, image, target, [0])
        what = f"{name}: peak memory, batches of {engine.batch_size}"
        yield Check(classifier.name, what, peak_memory(options.torch_device) / 2**30, "GiB")


def joblib(options: Options) -> Iterator[Check]:
    launchers = importlib.import_module("hydra_plugins.suny_launchers._joblib")
    on_gpu = options.torch_device.type == "cuda"
    for gpu in launchers._gpus(-1) if on_gpu else ():
        place = launchers._Place({"CUDA_VISIBLE_DEVICES": gpu})
        seen = place.pool.submit(torch.cuda.device_count).result()
        place.close()
        yield Check("", f"GPUs that a job on GPU {gpu} sees", float(seen), "GPUs", most=1.0, least=1.0)
    names = ("gradcam", "center")
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "dataset=causal_shapes",
            f"dataset.root={folder}/data",
            "dataset.count=4",
            f"device={options.torch_device.type}",
        ]
        launcher = ["hydra/launcher=joblib_gpu"] if on_gpu else ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        command = [
            sys.executable,
            "run.py",
            "-m",
            f"method={','.join(names)}",
            *common,
            f"results_dir={folder}/swept",
            *launcher,
        ]
        ended = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise UserError(f"the sweep ended with exit code {ended.returncode}: {ended.stderr.strip()[-500:]}")
        for name in names:
            alone = run_cell(config.read(composed([f"method={name}", *common, f"results_dir={folder}/alone"])))
            assert isinstance(alone, FinishedCell)
            swept = Path(folder, "swept", *alone.folder.parts[-3:])
            pair = [[_without_times(r) for r in read_records(f)] for f in (alone.folder, swept)]
            differ = sum(a != b for a, b in zip(*pair, strict=True))
            yield Check("causal_cnn", f"{name}: records that differ from a run's own", float(differ), "images", most=0.0)


def speed(options: Options) -> Iterator[Check]:
    for name in ("causal_cnn",) if options.quick else ("efficientnet_lite0", "resnet50"):
        classifier = network(name)
        for what, value, unit in tqdm(
            Ratios(classifier, options.torch_device, options.seconds, options.quick).throughput(), name, unit="figure"
        ):
            yield Check(name, what, value, unit, least=GOAL if what.endswith("of the prepared network's throughput") else None)


def faster(options: Options) -> Iterator[Check]:
    classifier: Classifier = network("causal_cnn" if options.quick else "efficientnet_lite0")
    for name, keys in error.SETTINGS.items():  # one by one: should the compiler fail in the midst, bf16 has its figures
        with tqdm(total=2 * len(error.METHODS), unit="step") as progress:
            figures = error.errors(classifier, options.torch_device, options.seconds, 2, progress, {name: keys})
        yield from (Check(**vars(figure)) for figure in figures)
        runs = any(figure.what == f"{name}: throughput" for figure in figures)
        yield Check(classifier.name, f"{name} runs", float(runs), "", least=1.0)


PARTS: dict[str, Callable[[Options], Iterator[Check]]] = {
    "equal": equal, "oom": oom, "memory": memory, "joblib": joblib, "speed": speed, "error": faster,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    options = parse(Options, arguments)
    chosen = list(PARTS) if options.part == ("all",) else options.part
    for part in chosen:
        if part not in PARTS:
            raise UserError(f"part={part} is unknown. {nearest(part, PARTS)}Valid: all, {', '.join(PARTS)}.")
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: this PyTorch sees no CUDA device, so nothing was run (device=cpu runs the same code without one).")
        return EXIT_OK
    out, where = options.out, machine(options.torch_device)
    table = pd.DataFrame()
    for part in chosen:
        print(f"{part} ...", file=sys.stderr, flush=True)
        table = _stored(out.with_suffix(".csv"), where, part)
        table = pd.concat([table, pd.DataFrame([_line(row) for row in _measured(part, options)])], ignore_index=True)
        _write(out, where, table)  # after each part, so that a later failure costs no figure
    failed = table[(table["ok"] == "no") & table["part"].isin(chosen)]
    print(f"\n{where}: {(table['ok'] == 'yes').sum()} checks hold, {(table['ok'] == 'no').sum()} do not: {out}.csv, {out}.md")
    if len(failed):
        print(_shown(failed))
    return EXIT_DEFECT if len(failed) else EXIT_OK


def machine(device: torch.device) -> str:
    """The GPU, the versions that numbers depend on, and the code."""
    where = environment(device)
    name = where["machine"]["device"]
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name += f", {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
    libraries = f"torch {where['versions']['torch']}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    git = where["git"] or {}
    revision = str(git.get("revision") or "unknown")[:10] + (" and changes" if git.get("modified") else "")
    return f"{name}; {libraries}; code {revision}"


def _measured(part: str, options: Options) -> Iterator[Check]:
    """The rows of a part; where it ends early, those that it had, and the reason."""
    began, reason = time.perf_counter(), ""
    try:
        for row in PARTS[part](options):
            yield Check(**{**asdict(row), "part": part})
    except Exception as ended:  # one part that fails must not cost the figures of the others
        traceback.print_exc()
        reason = f": {type(ended).__name__}: {' '.join(str(ended).split())[:300]}"
    yield Check("", f"finished{reason}", float(not reason), "", part, least=1.0)
    yield Check("", "time of this part", time.perf_counter() - began, "s", part)


def _line(row: Check) -> dict[str, Any]:
    ok = {None: "", True: "yes", False: "no"}[row.ok]
    return {"part": row.part, **{k: v for k, v in asdict(row).items() if k != "part"}, "ok": ok}


def _stored(file: Path, where: str, part: str) -> pd.DataFrame:
    """The figures that other runs have stored of the other parts, with the same GPU and code."""
    if not file.is_file():
        return pd.DataFrame()
    known = pd.read_csv(file, keep_default_na=False, na_values={"value": [""], "most": [""], "least": [""]})
    return known[(known["machine"] == where) & (known["part"] != part)].drop(columns="machine")


def _write(out: Path, where: str, table: pd.DataFrame) -> None:
    checks = f"{(table['ok'] == 'yes').sum()} checks hold, {(table['ok'] == 'no').sum()} do not."
    head = f"# Figures of a GPU\n\n{where}\n\n{checks} `python -m experiments.benchmark.gpu --help` explains them.\n"
    sections = [f"## {part}\n\n{_shown(rows)}\n" for part, rows in table.groupby("part", sort=False)]
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out.with_suffix(".csv"), table.assign(machine=where).to_csv(index=False).encode())
        write_atomically(out.with_suffix(".md"), "\n".join([head, *sections]).encode())


def _shown(table: pd.DataFrame) -> str:
    def allowed(row: Any) -> str:
        limits = (("<=", row.most), (">=", row.least))
        return ", ".join(f"{sign} {value:.3g}" for sign, value in limits if pd.notna(value))

    rows = [(r.network, r.what, f"{r.value:.3g}", r.unit, allowed(r), r.ok) for r in table.itertuples()]
    return text_table(["network", "figure", "value", "unit", "allowed", "holds"], rows)


def _without_times(record: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in record.items() if "seconds" not in k}, sort_keys=True)


@contextmanager
def _little_memory(engine: Engine, room: float) -> Iterator[None]:
    """Leaves so many bytes of the GPU to what comes; a CPU refuses batches of more than :data:`_ROOM`, as if it had none."""
    if engine.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(engine.device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    network: Any = engine.network
    forward, tail = network.forward, network.tail

    def checked(run: Callable[..., Any], images: Any, *rest: Any) -> Any:
        if len(images) > _ROOM:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return run(images, *rest)

    network.forward, network.tail = partial(checked, forward), partial(checked, tail)
    try:
        yield
    finally:
        del network.forward, network.tail


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
