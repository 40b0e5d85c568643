"""The page to look at: ``python -m experiments.report``."""
