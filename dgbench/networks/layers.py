"""Count the layers of a timm network, by timm's own division of it, for learning rates that differ by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import nn

from dgbench.core.errors import UserError

_REPLACED = re.compile(r"\.parametrizations\.(\w+)\.(?:original|\d+\.lora_[AB])$")
"""End of the name that PyTorch gives to a tensor which a parametrization replaces, or adds a low-rank change to."""


def layers_above(backbone: str, featurizer: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Yield each parameter of a featurizer with the number of layers above its own, the classifier being one.

    Parameters that a method has added are left out.

    Args:
        backbone: timm's name of the network.
        featurizer: The network, or another of its kind with the same names.

    Raises:
        UserError: The featurizer is no such network.
    """
    known, any_found = _layers(backbone), False
    for name, parameter in featurizer.named_parameters():
        above = known.get(_REPLACED.sub(r".\1", name))
        if above is not None:
            any_found = True
            yield parameter, above
    if not any_found:
        raise UserError(
            f"layer_decay needs a network of timm, and {type(featurizer).__name__} has no layer of {backbone}"
        )


@cache
def _layers(backbone: str) -> Mapping[str, int]:
    """Return the layers above each parameter of timm's network, by the parameter's name."""
    import timm  # slow to import, and only settings with `layer_decay` need it
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    # With a classifier, since timm counts it; without memory, and without draws from the caller's generator.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = timm.create_model(backbone, num_classes=2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    # timm hands out factors, not layers; powers of 1/2 are exact.
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    return {names[id(p)]: round(-math.log2(group["lr_scale"])) for group in groups for p in group["params"]}
