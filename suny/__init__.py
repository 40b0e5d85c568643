"""SUNY and the pipeline around it: image -> classifier -> explainer -> explanation.

- :mod:`suny.images`: data sets, decoding, the network's view of an image
- :mod:`suny.classifiers`: networks with their preprocessing, the cut at the target layer, the scoring engine
- :mod:`suny.explanation`: the contract of every explainer
- :mod:`suny.interventions`: pixels and causes that can be removed or kept
- :mod:`suny.games`: from coalition values to the values of players
- :mod:`suny.method`: SUNY itself (candidates, games, maps)
- :mod:`suny.library`: SUNY for any torch classifier: ``from suny import Suny``

The metrics, the baselines and the benchmark are the packages beside this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suny import threads, torchvision_guard

if TYPE_CHECKING:
    from suny.library import Suny, SunyResult

__all__ = ["Suny", "SunyResult"]
__version__ = "0.1.0"

threads.install()
torchvision_guard.install_on_import()


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: every program imports this package, and few of them need torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from suny import library

    return getattr(library, name)
