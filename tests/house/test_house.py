"""The rooms of the house: imports go one way, and nothing imports a command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from experiments.command.configuration import CONF

ROOT = CONF.parent

# From the ground up: a room imports from floors below its own only. What stands on one floor does not know of each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("suny.tools",),
    ("suny.games",),
    ("suny.images",),
    ("suny.classifiers",),
    ("suny.explanation",),
    ("suny.interventions",),
    ("suny.method",),
    ("suny.entry",),
    ("suny.custom",),
    ("baselines", "metrics"),
    # whoever explains and scores from Python, with any method and metric
    ("suny.choices",),
    ("suny.api",),
    ("suny.library", "suny.scoring"),
    ("experiments.command",),
    ("experiments.store",),
    ("experiments.tables",),
    ("experiments.figures", "experiments.studies"),
    ("experiments.cell",),
    ("experiments.jobs", "experiments.training"),
    ("experiments.benchmark", "experiments.failures", "experiments.report", "hydra_plugins", "commands"),
)
# Modules that lie beside the rooms of suny and know nothing of any.
TOOLS = {"bivariate", "configured", "errors", "later", "plots", "seeds", "threads", "torchvision_first", "torchvision_guard"}

# Importer and imported: why an import goes up, or is of a command, all the same.
ALLOWED = {
    **{
        ("suny", f"suny.{name}"): "the package's front door: imported when a user asks for a public name"
        for name in ("api", "choices", "library", "scoring")
    },
}


@cache
def modules() -> dict[str, Path]:
    """All modules by name."""
    named = {"run": ROOT / "run.py"}
    for top in ("suny", "baselines", "metrics", "experiments", "hydra_plugins"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imports(module: str) -> Iterator[str]:
    """The modules of this project that a module imports, anywhere in it: late, or for types alone."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in modules())
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                if f"{source}.{alias.name}" in modules():
                    yield f"{source}.{alias.name}"
                elif source in modules():
                    yield source


def is_command(module: str) -> bool:
    """Whether a module is started by a user, or starts itself."""
    return any(
        isinstance(node, ast.If) and "__main__" in ast.dump(node.test) and "__name__" in ast.dump(node.test)
        for node in ast.parse(modules()[module].read_text(encoding="utf-8")).body
    )


def room(module: str) -> str:
    """Where a module stands; what a package does when it is imported belongs to its lowest room."""
    top, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    if top == "suny":
        return "suny.tools" if first in {"", *TOOLS} else f"suny.{first}"
    if module == "experiments":
        return "experiments.command"
    if top == "experiments":
        return f"experiments.{first}" if (ROOT / top / first).is_dir() and not module.endswith(".__main__") else "commands"
    return "commands" if module == "run" else top


def floor(module: str) -> int:
    return next(at for at, rooms in enumerate(FLOORS) if room(module) in rooms)


@cache
def edges() -> list[tuple[str, str]]:
    return [(m, i) for m in modules() for i in imports(m) if i != m]


def wrong_way(found: list[tuple[str, str]]) -> list[str]:
    """The imports between rooms that go up, or to a room on the same floor."""
    wrong = []
    for importer, imported in found:
        upwards = floor(importer) <= floor(imported) and room(importer) != room(imported)
        # a command may use the room that it stands at the door of
        own = importer == f"{room(imported)}.__main__"
        if upwards and not own and (importer, imported) not in ALLOWED:
            wrong.append(f"{importer} -> {imported}")
    return wrong


def test_every_module_has_a_room() -> None:
    rooms = {r for rooms in FLOORS for r in rooms}
    assert {room(m) for m in modules()} == rooms
    assert {m.partition(".")[2] for m in modules() if room(m) == "suny.tools"} == {"", *TOOLS}


def test_arrows_point_one_way() -> None:
    assert not wrong_way(edges())


def test_wrong_arrows_are_found() -> None:
    given = [
        ("suny.images.view", "suny.method.field"),
        ("baselines.rise", "metrics.base"),
        ("metrics.base", "experiments.store.card"),
        ("suny.errors", "suny.games.values"),
        ("experiments.report.page", "experiments.train"),
        ("experiments.cell.cell", "experiments.store.card"),
        ("experiments.report.__main__", "experiments.report.page"),
    ]
    assert wrong_way(given) == [f"{a} -> {b}" for a, b in given[:5]]


@pytest.mark.parametrize("top", ["suny", "baselines", "metrics"])
def test_the_library_knows_nothing_of_experiments(top: str) -> None:
    assert not [e for e in edges() if e[0].partition(".")[0] == top and e[1].partition(".")[0] in ("experiments", "run")]


def test_nothing_imports_a_command() -> None:
    commands = {m for m in modules() if is_command(m)}
    # a module directly inside experiments is a command, and so is a package's __main__
    direct = {m for m, path in modules().items() if path.parent.name == "experiments" and m != "experiments"}
    assert {"run", "experiments.train", "experiments.tables.__main__"} <= commands
    assert direct <= commands
    assert {m for m in modules() if m.endswith(".__main__")} <= commands
    # a module that starts itself in fresh processes is used by its own package
    assert not [f"{a} -> {b}" for a, b in edges() if b in commands and a.rpartition(".")[0] != b.rpartition(".")[0]]


def test_what_is_allowed_is_needed() -> None:
    assert set(ALLOWED) <= set(edges())


def test_relative_imports_are_read() -> None:
    assert "hydra_plugins.suny_launchers._gathering" in set(imports("hydra_plugins.suny_launchers._joblib"))
