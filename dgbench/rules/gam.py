"""Gradient norm aware minimization (GAM): look for minima around which no gradient is large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import backward_at, orthogonal_part, scale_to_length
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule


class GAM(Rule):
    r"""Seek minima around which no gradient is large, by combining four gradients a step.

    $$
    \theta \leftarrow \mathrm{opt}\Big(\theta, h - \gamma \Big(k - \frac{\langle k, h \rangle}{\|h\|_2^2}\, h\Big)\Big),
    \qquad h = \beta_1 g_1 + \beta_3 g_3, \qquad k = \beta_0 g_0 + \beta_2 g_2
    $$

    $$
    \begin{aligned}
    g_0 &= \nabla L(\theta), & g_1 &= \nabla L\big(\theta + r\, u(g_0)\big), \\
    g_2 &= \nabla L(\theta + e), & g_3 &= \nabla L\big(\theta + e + r\, u(g_2)\big),
    \end{aligned}
    \qquad e = R\, u(g_1 - g_0), \qquad u(v) = \frac{v}{\|v\|_2 + 10^{-12}}
    $$

    $L$ is the loss, $r$ is `grad_rho` and $R$ is `grad_norm_rho`. This is the paper's accelerated form.

    The paper's algorithm has $\beta_0 + \beta_2 = 1$ and $\beta_1 + \beta_3 = 1$, and so have the defaults. The
    authors' code has no $\beta_0$: $g_0$ always counts fully. Set `beta_0` to 1 for that, with the other betas at 1 for
    their CIFAR runs.

    Reference:
        Zhang, Xu, Yu, Zou and Cui, "Gradient Norm Aware Minimization Seeks First-Order Flatness and Improves
        Generalization", CVPR 2023.

    Departures from the paper: its form with Hessian-vector products is not offered.

    Departures from the authors' code:

    - It has no $\beta_0$ (see above).
    - No label smoothing (theirs smooths by 0.1).
    - Constant radii (their schedule stands still where others have run GAM on DomainBed's data sets).
    - In later passes live batch norm leaves its count of batches alone too.
    - Weights are copied back.

    DomainBed: has no GAM.
    """

    card = RuleCard(
        paper="Zhang et al., CVPR 2023",
        link="https://arxiv.org/abs/2303.03108",
        tags=("flat-minima",),
        forwards=4.0,
        backwards=4.0,
        passes=4.0,
        penalties=("grad_rho", "grad_norm_rho", "gamma"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of GAM; defaults are those of UDIM's authors, but for the paper's `beta_0`.

        UDIM's authors ran GAM on DomainBed's data sets.
        """

        grad_rho: float = hparam(0.05, help="length of the step along a gradient", within="[0, inf)")
        grad_norm_rho: float = hparam(
            0.05, help="length of the step along the gradient of the gradient's norm", within="[0, inf)"
        )
        gamma: float = hparam(0.05, help="weight of the part of k that is orthogonal to h", within="[0, inf)")
        beta_0: float = hparam(0.1, help="weight in k of g_0, the gradient at the weights")
        beta_1: float = hparam(0.1, help="weight in h of g_1, the gradient uphill")
        beta_2: float = hparam(0.9, help="weight in k of g_2, the gradient where gradients are larger")
        beta_3: float = hparam(0.9, help="weight in h of g_3, the gradient uphill from there")

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill to the first of three displaced points."""
        return scale_to_length(gradients, self.hparams.grad_rho)

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Combine four gradients, each from a forward and a backward pass over the same minibatches."""
        h = self.hparams
        first = first or self.first_pass(batches)
        parameters, g0 = first.parameters, first.gradients
        uphill, g1 = backward_at(self, batches, parameters, self.displacement(parameters, g0))
        steeper = scale_to_length(list(torch._foreach_sub(g1, g0)), h.grad_norm_rho)
        _, g2 = backward_at(self, batches, parameters, steeper)
        both = list(torch._foreach_add(steeper, scale_to_length(g2, h.grad_rho)))
        _, g3 = backward_at(self, batches, parameters, both)
        # In place: `g3` is what lies in `.grad`, and becomes h. `g2` becomes k.
        torch._foreach_mul_(g3, h.beta_3)
        torch._foreach_add_(g3, g1, alpha=h.beta_1)
        torch._foreach_mul_(g2, h.beta_2)
        torch._foreach_add_(g2, g0, alpha=h.beta_0)
        torch._foreach_sub_(g3, orthogonal_part(g2, to=g3), alpha=h.gamma)
        return self.logged(first, uphill)
