"""The folders that conf files come from: the project's ``conf``, and one of the user's own, which lies anywhere.

The user's folder has the layout of ``conf`` (folders ``method``, ``metrics``, ...). It is named by
``--config-dir DIR``, which every command takes, or by the environment variable SUNY_CONF, by which other processes of a sweep
find it too. The classes that its files name are imported as Python imports them, and from the current folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from suny.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"

# The environment variable that names the user's folder.
VARIABLE = "SUNY_CONF"

_FLAGS = ("--config-dir", "-cd")

# The folder that the flag of this command names.
_given: Path | None = None


class FileConfigSource(file_config_source.FileConfigSource):
    """Files of a folder, as Hydra reads them, but for one thing: a metric's file may have ``_target_`` at its top, as that of a
    method has. Several metrics stand beside each other in a configuration, so that its content is put below its name.

    Hydra registers its own class again in every process, and keeps the registered one where it has the same name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        found = super().load_config(config_path)
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group.partition("/")[0] == "metrics" and is_one_metric(found.config) and not found.header["package"]:
            found.config = OmegaConf.create({name: found.config})
        return found


def is_one_metric(config: object) -> bool:
    """Whether the content of a metric's file is that of one metric, without its name above it."""
    return OmegaConf.is_dict(config) and "_target_" in config and "defaults" not in config  # type: ignore[operator]


def read_conf_files_here() -> None:
    """Makes Hydra read folders through :class:`FileConfigSource`."""
    SourcesRegistry.instance().types["file"] = FileConfigSource


def take_own_folder(arguments: Sequence[str]) -> list[str]:
    """Takes the user's folder from a command line, and lets modules in the current folder be imported.

    Returns: the other arguments.

    Raises:
        UserError: there is no such folder, or one of its files has the name of a file of the project, which would hide it.
    """
    global _given
    forget_own_folder()
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)  # last, so that no file there hides a package
    rest = list(arguments)
    for at, argument in enumerate(arguments):
        flag, sign, value = argument.partition("=")
        if flag in _FLAGS:
            if not sign and at + 1 == len(arguments):
                raise UserError(f"{flag} has no value: give {flag} FOLDER.")
            folder = value if sign else arguments[at + 1]
            rest = [*arguments[:at], *arguments[at + (1 if sign else 2) :]]
            _given = Path(folder).expanduser().absolute()
            break
    own = own_folder()
    if own is not None:
        if not own.is_dir():
            raise UserError(f"{'--config-dir' if _given else VARIABLE}={own} is no folder: give the folder of your conf files.")
        hidden = [p.relative_to(own) for p in sorted(own.glob("*/**/*.yaml")) if (CONF / p.relative_to(own)).is_file()]
        if hidden:
            raise UserError(f"{own / hidden[0]} has the name of this project's conf/{hidden[0].as_posix()}: rename yours.")
    return rest


def forget_own_folder() -> None:
    """Ends what :func:`take_own_folder` began: a program that runs several commands may name another folder in each."""
    global _given
    _given = None


def own_folder() -> Path | None:
    """The user's folder of conf files; None where there is none."""
    named = os.environ.get(VARIABLE)
    return _given or (Path(named).expanduser().absolute() if named else None)


def conf_folders() -> list[Path]:
    """All folders of conf files."""
    own = own_folder()
    return [CONF, *([own] if own else [])]


def conf_file(group: str, name: str) -> Path | None:
    """The file of a choice; None where no folder has one."""
    files = (folder / group / f"{name}.yaml" for folder in conf_folders())
    return next((file for file in files if file.is_file()), None)


def choices(group: str) -> list[str]:
    """The names of a group's conf files."""
    return sorted({p.stem for folder in conf_folders() for p in (folder / group).glob("*.yaml")})


def search_path() -> list[str]:
    """The override by which Hydra also looks in the user's folder."""
    own = own_folder()
    quoted = str(own).replace("\\", "\\\\").replace('"', '\\"')
    return [f'hydra.searchpath=["file://{quoted}"]'] if own else []
