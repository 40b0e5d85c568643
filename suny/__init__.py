"""SUNY and the pipeline around it: image -> classifier -> explainer -> explanation.

- :mod:`suny.images`: data sets, decoding, the network's view of an image
- :mod:`suny.classifiers`: networks with their preprocessing, the cut at the target layer, the scoring engine
- :mod:`suny.explanation`: the contract of every explainer
- :mod:`suny.interventions`: pixels and causes that can be removed or kept
- :mod:`suny.games`: from coalition values to the values of players
- :mod:`suny.method`: SUNY itself (candidates, games, maps)
- :mod:`suny.api`, :mod:`suny.scoring`: every method and metric for any torch classifier: ``suny.explain``, ``suny.score``
- :mod:`suny.library`: SUNY alone, with its values: ``from suny import Suny``

The metrics, the baselines and the benchmark are the packages beside this one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from suny import threads, torchvision_guard

if TYPE_CHECKING:
    from suny.api import Explainer, Explanation, explain
    from suny.choices import methods, metrics
    from suny.library import Suny, SunyResult
    from suny.scoring import compare, score, summary

__all__ = [
    "Explainer", "Explanation", "Suny", "SunyResult", "compare", "explain", "methods", "metrics", "score", "summary",
]  # fmt: skip
__version__ = "0.1.0"

_MODULES = {
    "suny.api": ("Explainer", "Explanation", "explain"),
    "suny.choices": ("methods", "metrics"),
    "suny.library": ("Suny", "SunyResult"),
    "suny.scoring": ("compare", "score", "summary"),
}

threads.install()
torchvision_guard.install_on_import()


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: every program imports this package, and few of them need torch."""
    for module, public in _MODULES.items():
        if name in public:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
