"""Figures: ``python -m experiments.figures`` draws those of a paper; :mod:`experiments.figures.explanation` draws one picture
of one explanation."""
