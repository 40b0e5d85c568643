"""EfficientNet-Lite0, the network that always comes along, in the module that committed cards name."""

from __future__ import annotations

from suny.classifiers.efficientnet_lite import EfficientNetLite, bicubic
from suny.configured import configured


@configured
class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0, 4.7 million weights."""

    variant = "lite0"
    view = bicubic(256, 224)
