"""Jobs one after the other in this process: Hydra's own launcher, which lets nobody know how many there are."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn


class SerialLauncher(BasicLauncher):
    """``conf/launchers/basic.yaml`` puts it in the place of Hydra's."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from experiments.jobs.sweep import expect  # not above: Hydra looks for plugins wherever it composes a configuration

        expect(initial_job_idx + len(job_overrides))
        return super().launch(job_overrides, initial_job_idx)
