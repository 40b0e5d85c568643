"""Classifiers: networks with their preprocessing, the cut at the target layer, and the engine that runs them."""
