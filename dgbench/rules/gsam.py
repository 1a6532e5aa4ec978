"""Surrogate gap minimization (GSAM): SAM that also closes the gap from the loss at the weights to the loss uphill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import choice, hparam
from dgbench.methods.ascent import orthogonal_part, scale_to_length
from dgbench.rules._norms import NEEDS_OF_NORMS, SomeDisplaced


class GSAM(SomeDisplaced):
    r"""Minimize the loss uphill of the weights and, at right angles to it, its gap to the loss at the weights.

    $$
    \theta \leftarrow \mathrm{opt}(\theta,\; g' - \alpha\, g_\perp), \qquad
    g' = \nabla L\Big(\theta + \rho\, \frac{g}{\|g\|_2 + 10^{-12}}\Big), \qquad
    g_\perp = g - \frac{\langle g, g' \rangle}{\|g'\|_2^2}\, g'
    $$

    $L$ is the loss and $g = \nabla L(\theta)$. With $\epsilon$ the step uphill, stepping against $g_\perp$ lowers the
    gap $L(\theta + \epsilon) - L(\theta)$ while $L(\theta + \epsilon)$ stays as it is, to first order.

    The paper's radius falls with the learning rate from rho_max to rho_min: in this implementation rho_max is `rho`,
    rho_min is `rho` * `rho_floor`, and the learning rate's range is from the run's own down to 0, where the cosine
    schedule ends. With `rho_floor` 1 or a constant schedule the radius is constant, as where GSAM is run on DomainBed's
    data sets.

    Reference:
        Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan and Liu, "Surrogate Gap Minimization Improves
        Sharpness-Aware Training", ICLR 2022.

    Departures from the first author's PyTorch code:

    - `alpha` is a float (the flag of its example takes only integers).
    - No adaptive option (its code scales by $\theta^2$ where the paper's algorithm says $|\theta|$).
    - In the second pass live batch norm leaves its count of batches alone too.
    - Weights are copied back.

    DomainBed: has no GSAM.
    """

    card = RuleCard(
        paper="Zhuang et al., ICLR 2022",
        link="https://arxiv.org/abs/2203.08065",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        needs=NEEDS_OF_NORMS,
        penalties=("rho", "alpha"),
    )

    @dataclass(frozen=True)
    class Hparams(SomeDisplaced.Hparams):
        """Hyperparameters of GSAM; `rho` is as in SAM, the default of `alpha` is that of the author's example."""

        rho: float = hparam(
            0.05, choice(0.01, 0.02, 0.05, 0.1), help="length of the step uphill at the full lr", within="[0, inf)"
        )
        rho_floor: float = hparam(
            1.0, help="share of rho that remains where the schedule has brought lr to 0", within="[0, 1]"
        )
        alpha: float = hparam(0.4, help="weight of the surrogate gap", within="[0, inf)")

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill, whose length follows the schedule."""
        floor = self.hparams.rho_floor
        rho = self.hparams.rho * (floor + (1 - floor) * self.setting.lr_factor(self.step))
        return scale_to_length(gradients, rho)

    def combine(self, gradients: list[Tensor], displaced: list[Tensor]) -> None:
        """Take off the gradient uphill the part of the gradient at the weights that is orthogonal to it."""
        torch._foreach_sub_(displaced, orthogonal_part(gradients, to=displaced), alpha=self.hparams.alpha)
