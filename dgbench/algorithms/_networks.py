"""Networks whose classifier reads other features than the featurizer gives.

A method that changes the classifier's inputs does so in `Network.features`, so that everything else that works with
features (a linear probe, T3A) reads the same ones.
"""

from __future__ import annotations

from typing import TypeVar

from dgbench.core.setting import Setting
from dgbench.networks.network import Network

N = TypeVar("N", bound=Network)


def rebuild(kind: type[N], plain: Network, num_features: int, num_classes: int, setting: Setting) -> N:
    """Build a network of another class around a plain network's featurizer, with a new classifier.

    Args:
        kind: The class to make, a kind of `Network`.
        plain: The network whose featurizer, dropout and normalization of inputs are taken over.
        num_features: Width of the new classifier's inputs.
        num_classes: Number of logits.
        setting: The run's setting.

    Returns:
        The network, which shares the featurizer with `plain`.
    """
    normalization = (plain.mean.flatten().tolist(), plain.std.flatten().tolist()) if plain.normalizes else None
    return kind(plain.featurizer, num_features, num_classes, setting, plain.dropout.p, normalization)
