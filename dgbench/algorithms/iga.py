"""Inter-environmental gradient alignment (IGA): all domains should call for the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgbench.algorithms._domains import penalized
from dgbench.algorithms._gradients import of_each_domain
from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class IGA(Algorithm):
    r"""Penalize the spread of the domains' gradients around their mean.

    $$
    \min_\theta \; \frac{1}{E} \sum_e L_e + \lambda \sum_e \|g_e - \bar g\|_2^2, \qquad
    g_e = \nabla_\theta L_e, \qquad \bar g = \frac{1}{E} \sum_e g_e
    $$

    $L_e$ is the loss of domain $e$ of $E$, the gradients are with respect to all parameters, and $\lambda$ is
    `penalty`.

    Reference:
        Koyama and Yamaguchi, "When is Invariance Useful in an Out-of-Distribution Generalization Problem?",
        arXiv:2008.01883, 2020.

    Departures from the paper: the sum over domains, as in DomainBed, where the trace of the variance is the mean.

    Departures from DomainBed's code, none of which changes the numbers:

    - The mean gradient is the mean of the $g_e$, not a further backward pass. A gradient flows through it in neither:
      its terms sum to 0.
    - Attention is computed by plain matrix products, because the fused kernels have no second derivative.
    """

    card = AlgorithmCard(
        paper="Koyama and Yamaguchi, arXiv 2020",
        link="https://arxiv.org/abs/2008.01883",
        tags=("gradient-matching", "invariance"),
        backwards=3.0,
        min_domains=2,
        penalties=("penalty",),
        needs=(Need("eager", why="takes gradients of gradients, which PyTorch has no compiled form of"),),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of IGA; default and draw are DomainBed's."""

        penalty: float = hparam(1000.0, power(10, 1, 5), help="weight of the gradients' spread over domains")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, after a backward pass of each domain."""
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            losses, _, gradients = of_each_domain(self, batches, differentiable=True)
        # The mean is a constant: the terms of its gradient, sum_e (g_e - mean), are 0.
        spread = torch.stack([(g - g.detach().mean(dim=0)).square().sum() for g in gradients]).sum()
        return penalized(losses.mean(), spread, self.hparams.penalty)
