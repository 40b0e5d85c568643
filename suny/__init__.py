"""SUNY and the pipeline around it: image -> classifier -> explainer -> explanation.

- :mod:`suny.images`: data sets, decoding, the network's view of an image, the perturbation of pixels
- :mod:`suny.classifiers`: networks with their preprocessing, the cut at the target layer, the scoring engine
- :mod:`suny.explanation`: the contract of every explainer
- :mod:`suny.method`: SUNY itself (causes, coalition values, maps)
- :mod:`suny.library`: SUNY for any torch classifier: ``from suny import Suny``

The metrics, the baselines and the benchmark are the packages beside this one.
"""

from suny import threads

threads.install()  # before anything imports torch

from suny import torchvision_guard  # noqa: E402 - it imports torch

torchvision_guard.install()  # before anything imports torchvision

from suny.library import Suny, SunyResult  # noqa: E402 - the guard comes first

__all__ = ["Suny", "SunyResult"]
__version__ = "0.1.0"
