"""Figures: ``python -m experiments.figures`` draws those of a paper, :mod:`explanation` draws one explanation."""
