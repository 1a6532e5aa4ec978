"""Displace the parameters of normalization layers alone, as SAM-ON does."""

from __future__ import annotations

from torch import Tensor

from dgbench.core.errors import UserError
from dgbench.methods.rule import Rule
from dgbench.networks.norms import norms

DISPLACED = ("all", "norms")
"""The parameters that a rule displaces: all, or those of normalization layers (the ON of SAM-ON)."""


def affine(rule: Rule) -> list[Tensor]:
    """Return the parameters of the normalization layers that learn; raise UserError if there are none."""
    # A layer's own parameters alone: timm's norms also hold their activation, which may have some.
    found = [p for layer in norms(rule) for p in layer.parameters(recurse=False) if p.requires_grad]
    if not found:
        raise UserError(
            f"{type(rule).__name__} displaces the normalization layers that learn, and this network has none"
        )
    return list(found)
