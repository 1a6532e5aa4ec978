"""Networks whose features are not the featurizer's alone.

A method that changes what the classifier is given does so in `Network.features`, so that whatever works with features
(a linear probe, T3A) is given the same.
"""

from __future__ import annotations

from typing import TypeVar

from dgbench.core.setting import Setting
from dgbench.networks.network import Network

N = TypeVar("N", bound=Network)


def rebuilt(kind: type[N], plain: Network, num_features: int, num_classes: int, setting: Setting) -> N:
    """A network of another kind around the featurizer of a plain one, with a new classifier of `num_features`."""
    normalisation = (plain.mean.flatten().tolist(), plain.std.flatten().tolist()) if plain.normalises else None
    return kind(plain.featurizer, num_features, num_classes, setting, plain.dropout.p, normalisation)
