"""Networks: a featurizer and a classifier by name, and the weights that they start from.

Imports `core`. Planning asks `backbones`, `weights`, `start` and `hub`, which import torch only inside functions.
Read first: `network`.
"""
