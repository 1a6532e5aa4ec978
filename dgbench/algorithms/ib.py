"""Information bottleneck: features that vary no more than they must, alone and with invariant risk minimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import descend_penalised, losses_of, parts, pooled_features
from dgbench.algorithms._moments import variance
from dgbench.algorithms.irm import IRM, irm_penalty
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


def bottleneck(features: Sequence[Tensor]) -> Tensor:
    """Mean over domains and features of the variance within the domain; a domain with one example has none."""
    return torch.stack([variance(z).mean() for z in features]).mean()


class IB_ERM(Algorithm):
    """min over theta of mean_e L_e + lambda * mean_e mean_j Var_e(z_j), z the features that the classifier is given.

    Ahuja, Caballero, Zhang, Gagnon-Audet, Bengio, Mitliagkas and Rish, "Invariance Principle Meets Information
    Bottleneck for Out-of-Distribution Generalization", NeurIPS 2021.

    Departures from the paper: as in DomainBed the variance, which bounds the entropy, is taken within each domain,
    lambda is 0 before the annealing step, and there the optimizer starts afresh. From DomainBed's code: none in the
    numbers, but a domain with a single example has no variance instead of NaN.
    """

    card = AlgorithmCard(
        paper="Ahuja et al., NeurIPS 2021",
        penalties=("ib_lambda",),
        rehearsal={"ib_penalty_anneal_iters": 12},
        without={"ib_penalty_anneal_iters": 0},
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's."""

        ib_lambda: float = hparam(1e2, power(10, -1, 5), help="weight of the features' variance once it is annealed")
        ib_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 0 before"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the optimizer's moments are dropped where the weight jumps."""
        annealed = self.hparams.ib_penalty_anneal_iters
        if self.step == annealed:
            self.optimizer = self.new_optimizer(self.parameters())
        features = pooled_features(self, batches)
        nll = losses_of(self, parts(self.network.classifier(features), batches), batches).mean()
        weight = self.hparams.ib_lambda if self.step >= annealed else 0.0
        return descend_penalised(self, nll, bottleneck(parts(features, batches)), weight)


class IB_IRM(Algorithm):
    """min over theta of mean_e L_e + lambda * mean_e (d/ds L_e(s * f) at s = 1)^2 + mu * mean_e mean_j Var_e(z_j).

    The penalties are those of IRM and IB_ERM. Ahuja, Caballero, Zhang, Gagnon-Audet, Bengio, Mitliagkas and Rish,
    "Invariance Principle Meets Information Bottleneck for Out-of-Distribution Generalization", NeurIPS 2021.

    Departures: those of IRM and IB_ERM. Each penalty has an annealing step of its own, before which lambda is 1 and
    mu 0; the optimizer starts afresh at both, as in DomainBed.
    """

    card = AlgorithmCard(
        paper="Ahuja et al., NeurIPS 2021",
        min_domains=2,
        penalties=("irm_lambda", "ib_lambda"),
        rehearsal={"irm_penalty_anneal_iters": 12, "ib_penalty_anneal_iters": 12},
        without={"irm_penalty_anneal_iters": 0, "ib_penalty_anneal_iters": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(IRM.Hparams):
        """Defaults and draws are DomainBed's."""

        ib_lambda: float = hparam(1e2, power(10, -1, 5), help="weight of the features' variance once it is annealed")
        ib_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 0 before"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the optimizer's moments are dropped where a weight jumps."""
        irm_annealed, ib_annealed = self.hparams.irm_penalty_anneal_iters, self.hparams.ib_penalty_anneal_iters
        if self.step in (irm_annealed, ib_annealed):
            self.optimizer = self.new_optimizer(self.parameters())
        features = pooled_features(self, batches)
        logits = parts(self.network.classifier(features), batches)
        nll = losses_of(self, logits, batches).mean()
        irm = torch.stack([irm_penalty(z, b.y) for z, b in zip(logits, batches, strict=True)]).mean()
        ib = bottleneck(parts(features, batches))
        loss = nll + (self.hparams.irm_lambda if self.step >= irm_annealed else 1.0) * irm
        loss = loss + (self.hparams.ib_lambda if self.step >= ib_annealed else 0.0) * ib
        self.descend(loss)
        return {"loss": loss.detach(), "nll": nll.detach(), "irm_penalty": irm.detach(), "ib_penalty": ib.detach()}
