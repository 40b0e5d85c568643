"""Hydra's launchers, made for long work: one job that dies does not end the others, and is told at once.

Those of other processes build on hydra-joblib-launcher and hydra-submitit-launcher, which need not be installed. Hydra finds
plugins in a folder of this name beside the program; ``conf/launchers`` has their keys, and presets of them.
"""

from contextlib import suppress

from ._serial import SerialLauncher as SerialLauncher

with suppress(ImportError):
    from ._joblib import JoblibLauncher as JoblibLauncher
with suppress(ImportError):
    from ._submitit import LocalLauncher as LocalLauncher
    from ._submitit import SlurmLauncher as SlurmLauncher
