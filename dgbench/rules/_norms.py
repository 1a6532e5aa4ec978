"""Displace the parameters of normalization layers alone, as SAM-ON does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.rule import Rule
from dgbench.networks.norms import norms

DISPLACED = ("all", "norms")
"""The parameters that a rule displaces: all, or those of normalization layers (the ON of SAM-ON)."""

_WHEN = {"displaced": "norms"}
LEARNING_NORMS = "displaces normalization layers, which don't learn then"
"""The reason why a `lora_rank` rules such a rule out."""
NEEDS_OF_NORMS = (
    *(Need(what, when=_WHEN) for what in ("norm", "learning_features")),
    Need("full_weights", when=_WHEN, why=LEARNING_NORMS),
)
"""Needs of a rule that can displace normalization layers alone."""


class SomeDisplaced(Rule):
    """Base of rules that displace all parameters, or those of normalization layers alone."""

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The hyperparameter that chooses between them."""

        displaced: str = hparam(
            "all",
            help="parameters that are displaced; norms: those of normalization layers",
            options=DISPLACED,
            optional=True,
        )

    hparams: Hparams

    def climbing(self) -> Iterable[Tensor]:
        """Return all parameters, or those of the normalization layers that learn."""
        return affine(self) if self.hparams.displaced == "norms" else self.parameters()


def affine(rule: Rule) -> list[Tensor]:
    """Return the parameters of the normalization layers that learn; raise UserError if there are none."""
    # A layer's own parameters alone: timm's norms also hold their activation, which may have some.
    found = [p for layer in norms(rule) for p in layer.parameters(recurse=False) if p.requires_grad]
    if not found:
        raise UserError(
            f"{type(rule).__name__} displaces the normalization layers that learn, and this network has none"
        )
    return list(found)
