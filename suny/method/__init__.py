"""SUNY: necessity and sufficiency as Shapley values over a network's causes.

Xuan, Deng, Lin, Kong, Ma, "SUNY: A Visual Interpretation Framework for Convolutional Neural Networks from a Necessary and
Sufficient Perspective", arXiv 2303.00244, CVPR 2024 workshop XAI4CV.

- :mod:`suny.interventions.causes`: causes that can be removed or kept, and p_c when they are
- :mod:`suny.games.values`: from a table of coalition values to one value per player
- :mod:`suny.method.candidates`: the causes that play
- :mod:`suny.method.explainer`: games, values, maps
- :mod:`suny.method.field`: the preset suny_semi, which fits many small players at once
"""
