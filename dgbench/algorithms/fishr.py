"""Fishr: the gradients of examples should vary alike in all domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import places
from dgbench.algorithms._head import moments, per_example
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class Fishr(Algorithm):
    """min of L + lambda * mean_e ||v_e - mean_e v_e||^2 / P, v_e in R^P the classifier's gradient variances in e.

    Ramé, Dancette and Cord, "Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization", ICML 2022.
    v_e is the variance over domain e's examples of the gradient of each one's cross-entropy by each parameter of the
    classifier, v <- ema * v + (1 - ema) * variance now, divided by 1 - ema so that the gradient does not depend on ema.
    Up to `penalty_anneal_iters` lambda is 0; there the optimizer starts afresh.

    Departures from the paper: the mean over parameters, as in its code. From DomainBed's code, which cannot run with
    any BackPACK that still installs: variances are E[g^2] - E[g]^2, by matrix products, so no example's gradient is
    ever laid out.
    """

    card = AlgorithmCard(
        paper="Ramé et al., ICML 2022",
        min_domains=2,
        penalties=("fishr_lambda",),
        rehearsal={"penalty_anneal_iters": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's; `fishr_lambda` is its `lambda`, which is a word of Python."""

        fishr_lambda: float = hparam(1e3, power(10, 1, 4), help="weight of the penalty", stream="lambda")
        penalty_anneal_iters: int = hparam(
            1500, uniform(0, 5000, integer=True), help="first step with that weight; 0 before"
        )
        ema: float = hparam(
            0.95, uniform(0.9, 0.99), help="how much of the variances is kept from step to step", within="[0, 1)"
        )

    hparams: Hparams
    variances: Tensor

    def build(self) -> None:
        """Start the moving averages at 0."""
        size = sum(p.numel() for p in self.network.classifier.parameters())
        like = next(self.network.classifier.parameters()).detach()
        self.register_buffer("variances", like.new_zeros(self.task.num_domains, size))

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the optimizer's moments are dropped where the penalty sets in."""
        annealed = self.hparams.penalty_anneal_iters
        if self.step == annealed:
            self.optimizer = self.new_optimizer(self.parameters())
        y = torch.cat([b.y for b in batches])
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        logits, layers = per_example(self.network.classifier, features, y)
        nll = F.cross_entropy(logits, y)
        start, variances = 0, []
        for batch in batches:
            end = start + len(batch.y)
            means, squares = moments(layer.rows(start, end) for layer in layers)
            variances.append(torch.cat(squares) - torch.cat(means).square())
            start = end
        penalty = self._penalty(torch.stack(variances), places(self, batches))
        loss = nll + (self.hparams.fishr_lambda if self.step >= annealed else 0.0) * penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": nll.detach(), "penalty": penalty.detach()}

    def _penalty(self, variances: Tensor, there: Tensor) -> Tensor:
        ema = self.hparams.ema
        averaged = ema * self.variances[there] + (1 - ema) * variances
        self.variances[there] = averaged.detach()
        averaged = averaged / (1 - ema)
        return (averaged - averaged.mean(dim=0)).square().mean()
