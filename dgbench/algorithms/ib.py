"""Information bottleneck: features that vary no more than they must, alone (IB_ERM) and with IRM's penalty (IB_IRM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import losses_of, penalized, pooled_features, split_by_domain
from dgbench.algorithms._moments import variance
from dgbench.algorithms.irm import IRM, irm_penalty
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


def bottleneck(features: Sequence[Tensor]) -> Tensor:
    """Return the variance of the features within a domain, averaged over features and domains, a scalar.

    Args:
        features: (B, num_features) of each domain; a domain with one example has no variance.
    """
    return torch.stack([variance(z).mean() for z in features]).mean()


class IB_ERM(Algorithm):
    r"""Add the variance of the features within each domain to the loss.

    $$
    \min_\theta \; \frac{1}{E} \sum_e L_e + \lambda\, \mathrm{mean}_{e, j} \mathrm{Var}_e(z_j)
    $$

    $L_e$ is the loss of domain $e$ of $E$, and $z_j$ are the features, as they enter the classifier. $\lambda$ is 0
    before step `ib_penalty_anneal_iters`, where the optimizer starts afresh, and `ib_lambda` from there on.

    Reference:
        Ahuja, Caballero, Zhang, Gagnon-Audet, Bengio, Mitliagkas and Rish, "Invariance Principle Meets Information
        Bottleneck for Out-of-Distribution Generalization", NeurIPS 2021.

    Departures from the paper, all as in DomainBed: the variance, which bounds the entropy, is taken within each domain;
    $\lambda$ is 0 before the annealing step, and there the optimizer starts afresh.

    Departures from DomainBed's code: none in the numbers, but a domain with a single example has no variance instead of
    NaN.
    """

    card = AlgorithmCard(
        paper="Ahuja et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2106.06607",
        tags=("regularization",),
        penalties=("ib_lambda",),
        rehearsal={"ib_penalty_anneal_iters": 12},
        without={"ib_penalty_anneal_iters": 0},
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of IB_ERM; defaults and draws are DomainBed's."""

        ib_lambda: float = hparam(1e2, power(10, -1, 5), help="weight of the features' variance once it is annealed")
        ib_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 0 before", begins="step"
        )

    hparams: Hparams

    def before_step(self) -> None:
        """Drop the optimizer's moments where the penalty's weight jumps."""
        if self.step == self.hparams.ib_penalty_anneal_iters:
            # As in DomainBed: moments gathered without the penalty would give the first steps with it a wrong size.
            self.optimizer = self.new_optimizer(self.parameters())

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        features = pooled_features(self, batches)
        nll = losses_of(self, split_by_domain(self.network.classifier(features), batches), batches).mean()
        weight = self.hparams.ib_lambda if self.step >= self.hparams.ib_penalty_anneal_iters else 0.0
        return penalized(nll, bottleneck(split_by_domain(features, batches)), weight)


class IB_IRM(Algorithm):
    r"""Add IRM's penalty and the variance of the features within each domain to the loss.

    $$
    \min_\theta \; \frac{1}{E} \sum_e \bigg[ L_e + \lambda \Big( \frac{d}{ds} L_e(s f) \Big|_{s=1} \Big)^2
    + \mu\, \mathrm{mean}_j \mathrm{Var}_e(z_j) \bigg]
    $$

    The penalties are those of IRM and IB_ERM, with their symbols. Each has an annealing step of its own: $\lambda$ is 1
    before `irm_penalty_anneal_iters` and `irm_lambda` from there on, $\mu$ is 0 before `ib_penalty_anneal_iters` and
    `ib_lambda` from there on; the optimizer starts afresh at both, as in DomainBed.

    Reference:
        Ahuja, Caballero, Zhang, Gagnon-Audet, Bengio, Mitliagkas and Rish, "Invariance Principle Meets Information
        Bottleneck for Out-of-Distribution Generalization", NeurIPS 2021.

    Departures: those of IRM and IB_ERM.
    """

    card = AlgorithmCard(
        paper="Ahuja et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2106.06607",
        tags=("invariance", "regularization"),
        min_domains=2,
        penalties=("irm_lambda", "ib_lambda"),
        rehearsal={"irm_penalty_anneal_iters": 12, "ib_penalty_anneal_iters": 12},
        without={"irm_penalty_anneal_iters": 0, "ib_penalty_anneal_iters": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(IRM.Hparams):
        """Hyperparameters of IB_IRM; defaults and draws are DomainBed's."""

        ib_lambda: float = hparam(1e2, power(10, -1, 5), help="weight of the features' variance once it is annealed")
        ib_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 0 before", begins="step"
        )

    hparams: Hparams

    def before_step(self) -> None:
        """Drop the optimizer's moments where a penalty's weight jumps."""
        # As in DomainBed: moments gathered under the old weights would give the first steps under the new ones a wrong
        # size.
        if self.step in (self.hparams.irm_penalty_anneal_iters, self.hparams.ib_penalty_anneal_iters):
            self.optimizer = self.new_optimizer(self.parameters())

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        h = self.hparams
        features = pooled_features(self, batches)
        logits = split_by_domain(self.network.classifier(features), batches)
        nll = losses_of(self, logits, batches).mean()
        irm = torch.stack([irm_penalty(z, b.y) for z, b in zip(logits, batches, strict=True)]).mean()
        ib = bottleneck(split_by_domain(features, batches))
        loss = nll + (h.irm_lambda if self.step >= h.irm_penalty_anneal_iters else 1.0) * irm
        loss = loss + (h.ib_lambda if self.step >= h.ib_penalty_anneal_iters else 0.0) * ib
        return {"loss": loss, "nll": nll, "irm_penalty": irm, "ib_penalty": ib}
