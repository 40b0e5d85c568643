"""What README, docs, comments and docstrings say of files, commands, modules and defaults holds."""

from __future__ import annotations

import ast
import builtins
import csv
import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf

from experiments.command import configuration as config
from experiments.command.configuration import CONF
from experiments.command.folders import VARIABLE
from experiments.command.program import composed
from suny.configured import target_class
from tests.house.test_extending import Project

ROOT = CONF.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATION = sorted(CONF.rglob("*.yaml"))
ROOMS = ("suny", "baselines", "metrics", "experiments", "hydra_plugins", "conf", "docs", "tests", "results")
SOURCES = [
    p for room in ("suny", "baselines", "metrics", "experiments", "hydra_plugins") for p in sorted((ROOT / room).rglob("*.py"))
]
SOURCES.append(ROOT / "run.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# links and files


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_headings_become_anchors_as_github_makes_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Birds: train, benchmark\n\n```\n# no heading\n```\n\n## What will it cost?\n", encoding="utf-8")
    assert anchors(page) == {"birds-train-benchmark", "what-will-it-cost"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = set(re.findall(r"\]\(([\w.]+\.md)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert index == {p.name for p in PAGES[1:]} - {"README.md"}


def ignored() -> list[str]:
    """The folders that commands write and git does not keep."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    return [line for line in lines if line.startswith("results/")]


def missing_files(text: str) -> list[str]:
    """What looks like a file or a folder of the repository and is not there."""
    looks = rf"(?<![\w/.<>$}}-])(?:{'|'.join(ROOMS)})/[\w.*/-]*\w/?(?![\w/<{{$*])"
    found = {path.rstrip("/") for path in re.findall(looks, text)}
    written = tuple(ignored())
    return sorted(
        path
        for path in found
        if not f"{path}/".startswith(written) and not any(ROOT.glob(path)) and not any(ROOT.glob(f"{path}.*"))
    )


def test_files_that_are_not_there_are_found() -> None:
    text = "`metrics/energy.py`, `metrics/energies.py` (results/tables/a.md) results/runs/<a>/b conf/recipe conf/recipes."
    assert missing_files(text) == ["conf/recipes", "metrics/energies.py", "results/tables/a.md"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    assert not missing_files(page.read_text(encoding="utf-8"))


def test_every_file_that_a_comment_or_a_docstring_names_is_there() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in [*CONFIGURATION, *SOURCES, ROOT / "Makefile"]}
    missing = {name_of(path): missing_files(text) for path, text in texts.items()}
    assert not {name: files for name, files in missing.items() if files}


def missing_sections(text: str) -> list[str]:
    """The sections of README.md and of pages that a comment names and that are no headings there."""
    named = re.findall(r"(README|docs/\w+)(?:\.md)?, (?:section )?([A-Z0-9][\w ]+)", text)
    return [f"{p}: {s}" for p, s in named if s.strip().lower().replace(" ", "-") not in anchors(ROOT / f"{p}.md")]


def test_sections_that_are_not_there_are_found() -> None:
    text = "(docs/scale.md, section Shards) (README.md, Method) (README, section Licence)"
    assert missing_sections(text) == ["README: Method"]


def test_every_section_that_a_comment_names_is_there() -> None:
    paths = [*CONFIGURATION, *SOURCES, *(p for p in sorted((ROOT / "tests").rglob("*.py")) if p != Path(__file__))]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    missing = {name_of(path): missing_sections(text) for path, text in texts.items()}
    assert not {name: sections for name, sections in missing.items() if sections}


# commands

# Commands whose arguments begin with something that is no key: its least and its largest number.
POSITIONAL = {
    "experiments.explain": (1, 1),
    "experiments.score": (1, 1),
    "experiments.migrate": (1, 1),
    "experiments.benchmark": (0, 1),
    "experiments.compare": (2, 2),
}
# Keys that stand in the place of such arguments.
INSTEAD = {"experiments.compare": "reference"}
# Commands that hand keys over to Hydra, and the configuration that has them.
COMPOSED = {
    "run": "config",
    "experiments.explain": "config",
    "experiments.score": "config",
    "experiments.failures": "config",
    "experiments.train": "train",
    "experiments.accuracy": "config",
}
FLAGS = {"-m", "--multirun", "--help", "--methods", "--metrics", "--check", "--cfg", "--resolve"}
# What stands for a value of a group that the reader chooses.
PLACEHOLDER = re.compile(r"\w+=([A-Z]|\.\.\.)")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as a text shows it."""

    module: str
    positional: tuple[str, ...]
    flags: tuple[str, ...]
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.module, *self.positional, *self.flags, *self.keys])


def commands(text: str) -> Iterator[Command]:
    """The commands in a text, each as far as its arguments go: up to a remark, a closing mark, or the words of a sentence."""
    text = re.sub(r"\\\n\s*(# +)?", " ", text)
    for line in text.splitlines():
        for found in re.finditer(r"python (?:(run)\.py|-m ((?:experiments|tests)[\w.]*))(?=[^\w.]|[.]?$|\.\s)", line):
            module = found[1] or found[2].rstrip(".")
            yield Command(module, *_arguments(line[found.end() :], *POSITIONAL.get(module, (0, 0))))


def _arguments(rest: str, least: int, most: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    rest = re.sub(r" --config-dir[ =]my_conf", "", rest)  # the page's own files, which are looked for there anyway
    positional: list[str] = []
    flags: list[str] = []
    keys: list[str] = []
    for word in re.findall(r"""(?:[^\s"'`]|"[^"]*"|'[^']*'|`.*|["'].*)+""", rest) if re.match(r" (?! )", rest) else ():
        bare = word.replace('"', "").replace("'", "")
        ended = "`" in word or (bare.endswith(")") and "(" not in bare) or bare.endswith((",", ";", ":", "."))
        bare = bare.partition("`")[0].rstrip(".,;:") if not bare.endswith("=...") else bare
        bare = bare if "(" in bare else bare.rstrip(").,;:")
        if bare in FLAGS:
            flags.append(bare)
        elif re.match(r"[\w./@+]+=.", bare):
            keys.append(bare)
        elif bare and len(positional) < (most if least else _words(bare, most)) and not keys:
            positional.append(bare)
        else:
            break
        if ended:
            break
    return tuple(positional), tuple(flags), tuple(keys)


def _words(word: str, most: int) -> int:
    """An argument that may be left out is one of few words, and no part of a sentence."""
    return most if word in benchmark_parts() else 0


@functools.cache
def benchmark_parts() -> frozenset[str]:
    from experiments.benchmark.__main__ import PARTS

    return frozenset({*PARTS, "gpu"})


def test_commands_are_read_as_far_as_they_go() -> None:
    text = (
        "python run.py -m method=a,b dataset.root=PATH     # remark\n"
        "Then: python -m experiments.tables writes table1; `python -m experiments.explain x.jpg method=suny`, two\n"
        'python run.py -m "method=glob(*)" dataset=demo \\\n    metrics=[a,b]\n'
        "(python -m experiments.benchmark error). python run.py [method=M] python -m experiments.benchmark gives r\n"
    )
    assert list(map(str, commands(text))) == [
        "run -m method=a,b dataset.root=PATH",
        "experiments.tables",
        "experiments.explain x.jpg method=suny",
        "run -m method=glob(*) dataset=demo metrics=[a,b]",
        "experiments.benchmark error",
        "run",
        "experiments.benchmark",
    ]


def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__main__.py"
    return ast.parse(source.read_text(encoding="utf-8"))


def _options(module: str) -> frozenset[str]:
    """The fields of a module's class ``Options``, by their aliases where they have one."""
    keys = []
    for node in (n for n in ast.walk(_tree(module)) if isinstance(n, ast.ClassDef) and n.name == "Options"):
        for field in (f for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)):
            alias = re.search(r"alias='([^']+)'", ast.unparse(field.annotation))
            keys.append(alias[1] if alias else field.target.id)  # type: ignore[union-attr]
    return frozenset(keys)


@functools.cache
def own_keys(module: str) -> frozenset[str]:
    """The keys of a command that are no keys of the configuration."""
    return _options(module)


@functools.cache
def composes(configuration: str, overrides: tuple[str, ...]) -> None:
    composed(list(overrides), configuration)


def alternatives(override: Override) -> list[str]:
    """An override for each value of a sweep."""
    if not override.is_sweep_override():
        return [override.input_line]
    value = override.value()
    group = CONF / override.key_or_group
    choices = [p.relative_to(group).with_suffix("").as_posix() for p in sorted(group.glob("*.yaml"))]
    # that every single file composes is tested elsewhere
    values = value.filter(choices)[:1] if isinstance(value, Glob) else list(override.sweep_string_iterator())
    assert values, f"{override.input_line} chooses nothing"
    return [f"{override.key_or_group}={v}" for v in values]


def check(command: Command) -> None:
    """That the module of a command is there, and takes its arguments."""
    path = ROOT.joinpath(*command.module.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"no module {command.module}"
    complete = len(command.positional) >= POSITIONAL.get(command.module, (0, 0))[0]
    instead = INSTEAD.get(command.module) in {k.partition("=")[0] for k in command.keys}
    assert complete or instead or not command.keys, "an argument is missing"
    own, configuration = own_keys(command.module), COMPOSED.get(command.module)
    others = [k for k in command.keys if k.partition("=")[0] not in own]
    if configuration is None:
        assert not others, f"unknown keys {others}"
        return
    if {"--methods", "--metrics"} & set(command.flags):
        return
    # shards=N is a key of the command line alone; method=all one of explain
    others = [k for k in others if not re.match(r"shards=\d+$|method=all$", k) and not PLACEHOLDER.fullmatch(k)]
    config.register_torchvision(others)
    config.register_on_request(others)
    parsed = OverridesParser.create().parse_overrides(others)
    choices = [alternatives(o) for o in parsed]
    first = [c[0] for c in choices]
    for at, values in enumerate(choices):
        for value in values:
            composes(configuration, (*first[:at], value, *first[at + 1 :]))
    if not choices:
        composes(configuration, ())


SHOWN = {
    path: found
    for path in [*PAGES, *CONFIGURATION, *SOURCES, ROOT / "Makefile"]
    if (found := list(commands(path.read_text(encoding="utf-8"))))
}


@pytest.mark.parametrize("path", SHOWN, ids=name_of)
def test_every_command_resolves(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.register_launchers()
    if path.suffix == ".md" and Project(tmp_path, path).conf.is_dir():  # the page shows conf files of its own
        monkeypatch.setenv(VARIABLE, str(tmp_path / "my_conf"))
    for command in SHOWN[path]:
        try:
            check(command)
        except Exception as error:
            raise AssertionError(f"{name_of(path)}: {command}: {error}") from error


def test_every_command_is_shown_somewhere() -> None:
    folder = ROOT / "experiments"
    there = {f"experiments.{p.stem}" for p in folder.glob("[!_]*.py")} | {
        f"experiments.{p.parent.name}" for p in folder.glob("*/__main__.py")
    }
    assert len(there) > 10
    assert there <= {c.module for found in SHOWN.values() for c in found}


@pytest.mark.parametrize(
    "text",
    [
        "python run.py method=sunny",
        "python run.py -m method=suny,gradcan",
        "python run.py methd=suny",
        'python run.py -m "method=glob(sunny*)"',
        "python -m experiments.tabels",
        "python -m experiments.tables result_dir=x",
        "python -m experiments.train recipe=heads",
    ],
)
def test_wrong_commands_are_found(text: str) -> None:
    (command,) = commands(text)
    with pytest.raises(Exception):  # noqa: B017, PT011
        check(command)


# references of docstrings


def modules() -> dict[str, Path]:
    named = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def _reaches(owner: Any, names: list[str]) -> bool:
    for at, name in enumerate(names):
        if hasattr(owner, name):
            owner = getattr(owner, name)
            continue
        fields = getattr(owner, "__annotations__", {}) | getattr(owner, "__dataclass_fields__", {})
        return at == len(names) - 1 and (name in fields or name in _assigned(owner))
    return True


def _assigned(owner: Any) -> set[str]:
    """The attributes that a class sets on itself."""
    import inspect

    return set(re.findall(r"self\.(\w+)\b[^=\n]*=", inspect.getsource(owner))) if isinstance(owner, type) else set()


def resolves(reference: str, module: str, classes: list[str]) -> bool:
    """Whether a reference in a module leads to something: by its full name, or by one that the module or its classes have."""
    parts = reference.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        if _reaches(found, parts[cut:]):
            return True
    here = importlib.import_module(module)
    owners = [here, builtins, *(getattr(here, c) for c in classes if hasattr(here, c))]
    return any(_reaches(owner, parts) for owner in owners)


def test_references_lead_to_something() -> None:
    dead = []
    for module, path in modules().items():
        text = path.read_text(encoding="utf-8")
        references = set(re.findall(r":(?:mod|class|func|meth|data|attr|exc):`~?([^`]+)`", text))
        classes = [n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef)]
        dead += [f"{module}: {r}" for r in sorted(references) if not resolves(r, module, classes)]
    assert not dead


def test_dead_references_are_found() -> None:
    assert resolves("Cell.compute", "experiments.cell.cell", ["Cell"])
    assert resolves("suny.games.values", "experiments.cell.cell", [])
    assert not resolves("Cell.computes", "experiments.cell.cell", ["Cell"])
    assert not resolves("suny.games.nowhere", "experiments.cell.cell", [])


# defaults


def _defaults(cls: Any) -> dict[str, Any]:
    """The defaults of a configured class's fields."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


@functools.cache
def usual() -> DictConfig:
    return composed([])


def nodes_of(group: str, name: str) -> dict[str, dict[str, Any]]:
    """What a conf file configures, by name: one thing, or several metrics; nothing of lists of other files."""
    loaded = OmegaConf.load(CONF / group / f"{name}.yaml")
    if "defaults" in loaded and group == "metrics":
        return {}
    if "defaults" in loaded:
        configuration = composed([f"{group}={name}"])
    else:  # composing each file would take long
        configuration = usual().copy()
        OmegaConf.set_struct(configuration, False)
        configuration[group] = loaded
    node: Any = OmegaConf.to_container(configuration[group], resolve=True)
    return node if group == "metrics" else {name: node}


def own_nodes(group: str, name: str) -> dict[str, dict[str, Any]]:
    """Those that are no preset: they have the name that their class has by default."""
    own = {}
    for key, settings in nodes_of(group, name).items():
        cls = target_class(settings, key)
        if _defaults(cls).get("name", getattr(cls, "name", key)) in (key, None):
            own[key] = settings
    return own


# Class and key: why a conf file has another value than the class by default.
OTHERWISE = {
    ("TorchvisionModel", "weights_version"): "the class builds every torchvision classifier, and few have weights of this name",
    ("TorchvisionModel", "options"): "further arguments depend on the classifier",
    ("SqueezeNet", "weights"): "one of its two files is for other weights than the usual ones",
    ("SqueezeNet", "weights_version"): "as TorchvisionModel, whose keys it has",
    ("SqueezeNet", "options"): "as TorchvisionModel, whose keys it has",
    ("CausalShapes", "root"): "the images are written below results_dir",
}
# Classes that have presets alone.
PRESETS = {"NecessityAt", "SufficiencyAt"}
GROUPS = [(g, p.stem) for g in ("method", "metrics", "dataset", "model") for p in sorted((CONF / g).glob("*.yaml"))]


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUNY_DATA", raising=False)


@pytest.mark.usefixtures("no_data")
def test_defaults_in_conf_are_those_of_the_class() -> None:
    wrong, compared, named = [], set(), set()
    for group, name in GROUPS:
        named |= {target_class(s, name).__name__ for s in nodes_of(group, name).values()}
        for key, settings in own_nodes(group, name).items():
            cls = target_class(settings, key)
            compared.add(cls.__name__)
            for setting, default in _defaults(cls).items():
                if settings.get(setting, default) != default and (cls.__name__, setting) not in OTHERWISE:
                    wrong.append(f"{group}/{name}: {key}.{setting} is {settings[setting]}, {cls.__name__} has {default}")
    assert not wrong
    assert named - compared == PRESETS, "each class is compared, but for those that have presets alone"


def test_the_table_of_three_networks_is_the_committed_benchmark() -> None:
    with (ROOT / "results/reference/tables/benchmark_suny.csv").open(encoding="utf-8") as file:
        measured = {(row["network"], row["what"].strip()): float(row["value"]) for row in csv.DictReader(file)}
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    explained = "suny (feature, exact, k = 8): "
    whats = {
        "network as loaded, one image per pass, images/s": "network as loaded, one image a pass",
        "network as loaded, in batches, images/s": "network as loaded, the same batch size",
        "network prepared, images/s, in batches of": "network prepared",
        "`suny`: time per image": f"{explained}time an image",
        "`suny`: share of the prepared network's throughput": f"{explained}of the prepared network's throughput",
        "`suny_filter`: time per image": "suny_filter (exact, k = 8): time an image",
        "one filter intervention, against one of pytorch-grad-cam's Ablation-CAM": "filter causes are cheaper by",
        "one masked image, against one of pytorch-grad-cam's Score-CAM": "feature causes are cheaper by",
    }
    for said, what in whats.items():
        row = re.search(rf"^\| {re.escape(said)} \| (.*) \|$", page, re.MULTILINE)
        assert row, said
        shown = [re.match(r"[\d.]+", cell) for cell in row[1].split(" | ")]
        for network, number in zip(("efficientnet_lite0", "resnet50", "vgg16"), shown, strict=True):
            assert number
            digits = len(number[0].partition(".")[2])
            assert float(number[0]) == round(measured[network, what], digits), (said, network)
