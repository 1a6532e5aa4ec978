"""A step rule for dgbench. Alone it steps ERM's loss, behind a `+` that of any algorithm with one loss.

dgbench check mine.py
dgbench train --include mine.py --algorithm CORAL+MyRule --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import dgbench
from dgbench import Rule, RuleCard, hparam
from dgbench.methods.ascent import scale_to_length


class MyRule(Rule):
    """Step by the gradient that is found a step of length `radius` uphill."""

    card = RuleCard(
        paper="Author et al., Venue Year",
        forwards=2.0,  # passes of a step, of ERM's loss
        backwards=2.0,
        passes=2.0,  # evaluations of any algorithm's loss
        penalties=("radius",),  # at 0, plain descent remains
    )

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """Hyperparameters of MyRule."""

        radius: float = hparam(0.05, help="length of the step uphill", within="[0, inf)")

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the move of each parameter to the point at which the second gradient is taken."""
        return scale_to_length(gradients, self.hparams.radius)

    def combine(self, gradients: list[Tensor], displaced: list[Tensor]) -> None:
        """Combine both gradients, by changes of `displaced` in place; as it stands, the gradient uphill is kept."""
