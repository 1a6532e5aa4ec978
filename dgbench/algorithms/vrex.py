"""Risk extrapolation: domains should be equally hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._domains import penalized
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class VREx(Algorithm):
    r"""Minimize the mean and the variance of the training domains' losses.

    $$
    \min_\theta \; \bar L + \lambda\, \frac1E \sum_e \big( L_e - \bar L \big)^2, \qquad \bar L = \frac1E \sum_e L_e
    $$

    $L_e$ is the loss of domain $e$ of $E$. $\lambda$ is `vrex_lambda` from step `vrex_penalty_anneal_iters` on and 1
    before it; at that step the optimizer starts afresh.

    Reference:
        Krueger, Caballero, Jacobsen, Zhang, Binas, Zhang, Le Priol and Courville, "Out-of-Distribution Generalization
        via Risk Extrapolation (REx)", ICML 2021.

    Departures from the paper and its code: the loss is not divided by $\lambda$ where $\lambda > 1$; $\lambda = 1$
    before the annealing step, and the fresh optimizer at it, are as in DomainBed.

    Departures from DomainBed's code: none in the numbers; its vector of losses is on the host, ours on the device.
    """

    card = AlgorithmCard(
        paper="Krueger et al., ICML 2021",
        link="https://arxiv.org/abs/2003.00688",
        tags=("invariance", "distribution-robustness"),
        min_domains=2,
        penalties=("vrex_lambda",),
        rehearsal={"vrex_penalty_anneal_iters": 12},
        without={"vrex_penalty_anneal_iters": 0},
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of VREx; defaults and draws are DomainBed's."""

        vrex_lambda: float = hparam(1e1, power(10, -1, 5), help="weight of the variance from the annealing step on")
        vrex_penalty_anneal_iters: int = hparam(
            500,
            power(10, 0, 4, integer=True),
            help="first step with that weight; before it, the weight is 1",
            begins="step",
        )

    hparams: Hparams

    def before_step(self) -> None:
        """Drop the optimizer's moments where the weight of the variance jumps."""
        if self.step == self.hparams.vrex_penalty_anneal_iters:
            self.optimizer = self.new_optimizer(self.parameters())

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        annealed = self.step >= self.hparams.vrex_penalty_anneal_iters
        losses = self.domain_losses(batches)
        mean = losses.mean()
        penalty = (losses - mean).square().mean()
        return penalized(mean, penalty, self.hparams.vrex_lambda if annealed else 1.0)
