"""The benchmark's command line: ``python run.py [key=value ...]`` computes one cell, ``-m`` a sweep of cells.

``python run.py --help`` lists the keys; README.md shows the usual commands.
"""

from __future__ import annotations

import sys
import tempfile

import hydra

from experiments.command import configuration as config
from experiments.command.folders import own_folder
from experiments.command.program import EXIT_OK, guarded
from experiments.jobs import sweep
from experiments.jobs.arguments import arguments_of, with_flags_last

compute = hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(sweep.compute)


def main() -> int:
    if "--metrics" in sys.argv:
        from experiments.tables.listing import list_metrics  # not above: it needs torch

        print(list_metrics())
        return EXIT_OK
    if "--methods" in sys.argv:
        from experiments.tables.listing import list_methods

        print(list_methods())
        return EXIT_OK
    config.register_launchers()
    with tempfile.TemporaryDirectory() as elsewhere:  # for Hydra's notes, which it writes before anything is checked
        own = [f"--config-dir={folder}"] if (folder := own_folder()) else []
        sys.argv[1:] = with_flags_last([*arguments_of(sys.argv[1:], elsewhere), *own])
        jobs = sweep.begin()
        compute()
    return jobs.close()


if __name__ == "__main__":
    sys.exit(guarded(main))
