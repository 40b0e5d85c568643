"""SUNY: necessity and sufficiency as Shapley values over a network's causes.

Xuan, Deng, Lin, Kong, Ma, "SUNY: A Visual Interpretation Framework for Convolutional Neural Networks from a Necessary and
Sufficient Perspective", arXiv 2303.00244, CVPR 2024 workshop XAI4CV.

- :mod:`suny.interventions.causes`: what can be removed or kept, and p_c when it is
- :mod:`suny.games.values`: from a table of coalition values to one value a player
- :mod:`suny.method.explainer`: candidates, tables, maps
"""
