"""Sharpness-aware minimization: descend along the gradient found a step uphill."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import global_norm, scale_to_length
from dgbench.methods.rule import Rule


class SAM(Rule):
    r"""Minimize the worst loss within a ball of radius `rho` around the weights.

    $$
    \min_\theta \; L(\theta + \epsilon), \qquad \epsilon = \frac{\rho\, g}{\|g\|_2 + 10^{-12}}, \quad
    g = \nabla_\theta L(\theta)
    $$

    $L$ is the loss on the concatenated minibatches. One norm is taken over all parameters that have a gradient,
    biases and the affine parameters of batch norm included. The gradient at $\theta + \epsilon$, from the same
    minibatches, moves $\theta$; dropout draws a new mask for it.

    Reference:
        Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
        ICLR 2021.

    Departures from the authors' JAX code: weight decay acts at the descent alone, where theirs is part of both losses;
    nothing is clipped; one perturbation serves the whole batch, where theirs is one for each device by default.

    Departures from the PyTorch code in use for domain generalization: weights are copied back, not recovered by
    subtraction. In the second pass live batch norm leaves its statistics alone, and its count of batches too; setting
    its momentum to 0, as that code does, lets the count run on.

    DomainBed: has no SAM.
    """

    card = RuleCard(
        paper="Foret et al., ICLR 2021",
        link="https://arxiv.org/abs/2010.01412",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        penalties=("rho",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SAM; the default is the paper's, the draw that of the re-runs on DomainBed."""

        rho: float = hparam(0.05, choice(0.01, 0.02, 0.05, 0.1), help="length of the step uphill", within="[0, inf)")

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill."""
        return scale_to_length(gradients, self.hparams.rho)

    def surrogate(self, loss: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Return the loss uphill to first order, the loss plus `rho` times the norm of its gradient."""
        return loss + self.hparams.rho * global_norm(gradients)
