"""Metrics: one small class each, from one set of perturbation code (:mod:`suny.interventions.pixels`)."""

import suny  # noqa: F401 - torchvision has to be importable first
