"""Risk extrapolation: domains should be equally hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class VREx(Algorithm):
    """min over theta of mean_e L_e + lambda * Var_e(L_e), L_e the cross-entropy of domain e, Var = mean (L_e - mean)^2.

    Krueger, Caballero, Jacobsen, Zhang, Binas, Zhang, Le Priol and Courville, "Out-of-Distribution Generalization via
    Risk Extrapolation (REx)", ICML 2021.

    Departures from the paper and its code: the loss is not divided by lambda where lambda > 1; before the annealing
    step lambda is 1 and at that step the optimizer starts afresh, both as in DomainBed. From DomainBed's code: none
    in the numbers; its vector of losses is on the host, ours on the device.
    """

    card = AlgorithmCard(
        paper="Krueger et al., ICML 2021",
        min_domains=2,
        penalties=("vrex_lambda",),
        rehearsal={"vrex_penalty_anneal_iters": 12},
        without={"vrex_penalty_anneal_iters": 0},
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's."""

        vrex_lambda: float = hparam(1e1, power(10, -1, 5), help="weight of the variance once it is annealed")
        vrex_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 1 before"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the optimizer's moments are dropped where the weight jumps."""
        annealed = self.hparams.vrex_penalty_anneal_iters
        if self.step == annealed:
            self.optimizer = self.new_optimizer(self.parameters())
        losses = self.domain_losses(batches)
        mean = losses.mean()
        penalty = (losses - mean).square().mean()
        loss = mean + (self.hparams.vrex_lambda if self.step >= annealed else 1.0) * penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": mean.detach(), "penalty": penalty.detach()}
