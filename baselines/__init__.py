"""The methods that SUNY is compared with, and the controls that every table needs."""

import suny  # noqa: F401 - torchvision has to be importable before pytorch-grad-cam is
