"""Sharpness-aware gradient matching: lower the loss, the loss uphill, and the angle between their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import global_norm
from dgbench.methods.rule import Rule


class SAGM(Rule):
    r"""Minimize the loss at the weights and uphill of them, and align the two gradients.

    $$
    \min_\theta \; \tfrac12 \big[ L(\theta) + L(\theta + \epsilon) \big], \qquad
    \epsilon = \Big( \frac{\rho}{\|g\|_2 + 10^{-12}} - \alpha \Big)\, g, \quad g = \nabla_\theta L(\theta)
    $$

    $L$ is the loss, and $\epsilon$ is held constant. To first order, the part $-\alpha g$ raises the inner product of
    the two gradients.

    Reference:
        Wang, Zhang, Lei and Zhang, "Sharpness-Aware Gradient Matching for Domain Generalization", CVPR 2023.

    Departures from the paper: the mean of the two losses is taken, as in the authors' code, where its objective is
    their sum. Adam hardly notices; with SGD the sum would step twice as far.

    Departures from the authors' code: `rho` is used as drawn; their optimizer gets 0.05 whatever is drawn. In the
    second pass live batch norm leaves its count of batches alone too. Weights are copied back, not recovered by
    subtraction.

    DomainBed: has no SAGM.
    """

    card = RuleCard(
        paper="Wang et al., CVPR 2023",
        link="https://arxiv.org/abs/2303.10353",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        penalties=("rho", "alpha"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SAGM, the authors'; `alpha` is drawn from the values that they report results with."""

        rho: float = hparam(0.05, choice(0.01, 0.02, 0.05, 0.1), help="length of the step uphill", within="[0, inf)")
        alpha: float = hparam(
            0.001,
            choice(0.0005, 0.001),
            help="share of the gradient that is taken off the step uphill",
            within="[0, inf)",
        )

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill, less a share of the gradient."""
        factor = self.hparams.rho / (global_norm(gradients) + 1e-12) - self.hparams.alpha
        return list(torch._foreach_mul(gradients, factor))

    def combine(self, gradients: list[Tensor], displaced: list[Tensor]) -> None:
        """Take the mean of both gradients."""
        torch._foreach_lerp_(displaced, gradients, 0.5)
