"""Inter-environmental gradient alignment: all domains ask for the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgbench.algorithms._domains import descend_penalised
from dgbench.algorithms._gradients import of_each_domain
from dgbench.core.cards import AlgorithmCard, Need
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class IGA(Algorithm):
    """min over theta of mean_e L_e + lambda * sum_e ||g_e - mean_e g_e||^2, g_e = grad L_e by all parameters.

    Koyama and Yamaguchi, "When is Invariance Useful in an Out-of-Distribution Generalization Problem?",
    arXiv:2008.01883, 2020.

    Departures from the paper: the sum over domains as in DomainBed, where the trace of the variance is the mean. From
    DomainBed's code: none in the numbers; the mean gradient is the mean of the g_e, not a further backward pass. A
    gradient flows through it in neither: its terms sum to 0. Attention is computed by plain matrix products, because
    the fused kernels have no second derivative.
    """

    card = AlgorithmCard(
        paper="Koyama and Yamaguchi, arXiv 2020",
        backwards=3.0,
        min_domains=2,
        penalties=("penalty",),
        needs=(Need("eager", why="takes gradients of gradients, which PyTorch has no compiled form of"),),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        penalty: float = hparam(1000.0, power(10, 1, 5), help="weight of the gradients' spread over domains")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, with a backward pass through the backward passes of all domains."""
        with sdpa_kernel(SDPBackend.MATH):
            losses, _, gradients = of_each_domain(self, batches, differentiable=True)
        spread = torch.stack([(g - g.detach().mean(dim=0)).square().sum() for g in gradients]).sum()
        return descend_penalised(self, losses.mean(), spread, self.hparams.penalty)
