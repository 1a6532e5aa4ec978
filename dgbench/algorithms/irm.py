"""Invariant risk minimisation: one classifier that is optimal in every domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import descend_penalised, losses_of, parts
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


def irm_penalty(logits: Tensor, labels: Tensor) -> Tensor:
    """Product of dL/ds at s = 1 over the even and over the odd examples, L the cross-entropy of s * logits.

    The two halves make it an unbiased estimate of the squared derivative; of a single example it is 0.
    """
    slopes = (logits.softmax(dim=1) * logits).sum(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)
    even, odd = slopes[::2], slopes[1::2]
    return even.mean() * odd.sum() / max(len(odd), 1)


class IRM(Algorithm):
    """min over theta of mean_e L_e + lambda * mean_e (d/ds L_e(s * f) at s = 1)^2, L_e the cross-entropy of domain e.

    Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", arXiv:1907.02893, 2019 (IRMv1).

    Departures from the authors' Colored MNIST script: the square is the product of the derivatives on two halves of the
    minibatch, as in the paper's own listing, the loss is not divided by lambda, and at the annealing step, before which
    lambda is 1, the optimizer starts afresh; the last two as in DomainBed. From DomainBed's code: none in the numbers;
    the derivative is written down, not asked of autograd, and a domain with a single example has no penalty instead of
    NaN.
    """

    card = AlgorithmCard(
        paper="Arjovsky et al., arXiv 2019",
        min_domains=2,
        penalties=("irm_lambda",),
        rehearsal={"irm_penalty_anneal_iters": 12},
        without={"irm_penalty_anneal_iters": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's."""

        irm_lambda: float = hparam(1e2, power(10, -1, 5), help="weight of the penalty once it is annealed")
        irm_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 1 before"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the optimizer's moments are dropped where the weight jumps."""
        annealed = self.hparams.irm_penalty_anneal_iters
        if self.step == annealed:
            self.optimizer = self.new_optimizer(self.parameters())
        logits = parts(self(torch.cat([b.x for b in batches])), batches)
        penalty = torch.stack([irm_penalty(z, b.y) for z, b in zip(logits, batches, strict=True)]).mean()
        weight = self.hparams.irm_lambda if self.step >= annealed else 1.0
        return descend_penalised(self, losses_of(self, logits, batches).mean(), penalty, weight)
