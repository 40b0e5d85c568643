"""The keys of the commands: values by type, and one line for each mistake."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hydra.errors import OverrideParseException
from pydantic import BeforeValidator, Field

from experiments.command.configuration import explain_hydra
from experiments.command.options import Count, Names, OptionalPlace, Place, Positive, parse, split
from experiments.command.program import composed
from suny.configured import configured
from suny.errors import UserError


def _even(text: str) -> int:
    if int(text) % 2:
        raise ValueError("give an even number")
    return int(text)


@configured
class Options:
    out: Place = Path("results")
    root: Annotated[OptionalPlace, Field(alias="dataset.root")] = None
    seconds: Positive = 2.0
    cases: Annotated[int, Field(ge=1)] | Literal["all"] = 10
    steps: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    quick: bool = False
    models: Names = ("vgg16",)
    images: Count = 6
    even: Annotated[int, BeforeValidator(_even)] = 2


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("out=2024", "out", Path("2024")),  # a folder, whatever its name looks like
        ("out=~/a=b", "out", Path.home() / "a=b"),
        ("dataset.root=", "root", None),
        ("dataset.root=/data", "root", Path("/data")),
        ("seconds=3", "seconds", 3.0),
        ("cases=all", "cases", "all"),
        ("cases=12", "cases", 12),
        ("quick=true", "quick", True),
        ("models=resnet50,vgg16", "models", ("resnet50", "vgg16")),
        ("models=", "models", ()),
        ("even=4", "even", 4),
    ],
)
def test_values_have_the_type_of_their_field(argument: str, field: str, value: Any) -> None:
    given = getattr(parse(Options, [argument]), field)
    assert given == value
    assert type(given) is type(value)


def test_the_last_value_counts_and_the_others_are_defaults() -> None:
    assert parse(Options, ["steps=3", "steps=4"]) == Options(steps=4)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("second=3", "unknown key second. Did you mean 'seconds'? Valid: out, dataset.root, seconds, "),
        ("root=a", "unknown key root. "),
        ("out", "out has no value: give out=VALUE."),
        ("seconds=0", "seconds=0: give a number above 0."),
        ("seconds=inf", "seconds=inf: give a number above 0."),
        ("seconds=", "seconds=: give a number above 0."),
        ("cases=0", "cases=0: give a number from 1 up, or all."),
        ("steps=1.5", "steps=1.5: give a whole number."),
        ("device=tpu", "device=tpu: give cpu or cuda."),
        ("quick=maybe", "quick=maybe: give true or false."),
        ("images=-1", "images=-1: give a number of images."),
        ("even=3", "even=3: give an even number."),
    ],
)
def test_mistakes(argument: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Options, [argument])
    assert str(error.value).startswith(message)


def test_other_keys_are_for_others() -> None:
    assert split(Options, ["out=a", "method.k=3", "-m", "quick=true"]) == (["out=a", "quick=true"], ["method.k=3", "-m"])


@pytest.mark.parametrize("command", ["explain", "failures", "figures", "list", "plan", "report", "tables"])
def test_every_key_is_in_the_help(command: str) -> None:
    """Of the commands whose keys are a class, whose defaults are their keys' own."""
    name = f"experiments.{command}"
    package = importlib.util.find_spec(name)
    assert package is not None
    module = importlib.import_module(f"{name}.__main__" if package.submodule_search_locations else name)
    module.Options()
    for key, field in module.Options.__pydantic_fields__.items():
        assert f"{field.alias or key}=" in module.__doc__, key


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--out", "a"], "--out is no flag. Keys have no dashes: write out=a."),
        (["--out=a"], "--out is no flag. Keys have no dashes: write out=a."),
        (["-out", "seconds=2"], "-out is no flag. Keys have no dashes: write out=VALUE."),
        (["--dry-run"], "--dry-run is no flag. Keys have no dashes: write dry_run=VALUE."),
    ],
)
def test_a_key_with_dashes_says_how_it_is_written(given: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Options, given)
    assert str(error.value) == said


def test_hydra_reads_no_key_with_dashes() -> None:
    """Where a command's arguments are Hydra's too: experiments.train, for one."""
    with pytest.raises(OverrideParseException) as error:
        composed(["--method=gradcam"])
    assert str(explain_hydra(error.value, [])) == "--method is no flag. Keys have no dashes: write method=gradcam."
