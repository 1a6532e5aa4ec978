"""Invariant risk minimization (IRM): learn features for which one classifier is optimal in every domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import losses_of, penalized, split_by_domain
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


def irm_penalty(logits: Tensor, labels: Tensor) -> Tensor:
    """Estimate the squared derivative of a domain's cross-entropy with respect to a scale of its logits, at scale 1.

    It is the product of the derivatives on the even and on the odd examples, an unbiased estimate of the square; of a
    single example it is 0.

    Args:
        logits: (B, classes).
        labels: Classes (B,), int64.

    Returns:
        A differentiable scalar, which may be negative.
    """
    # Each example's derivative d/ds CE(s * logits) at s = 1, written out.
    slopes = (logits.softmax(dim=1) * logits).sum(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)
    even, odd = slopes[::2], slopes[1::2]
    return even.mean() * odd.sum() / max(len(odd), 1)


class IRM(Algorithm):
    r"""Penalize the slope of each domain's loss in the scale of the logits: one classifier must suit all domains.

    $$
    \min_\theta \; \frac{1}{E} \sum_e \bigg[ L_e + \lambda \Big( \frac{d}{ds} L_e(s f) \Big|_{s=1} \Big)^2 \bigg]
    $$

    $L_e$ is the cross-entropy of domain $e$ of $E$ and $f$ are the logits: the paper's IRMv1. $\lambda$ is 1 before
    step `irm_penalty_anneal_iters`, where the optimizer starts afresh, and `irm_lambda` from there on.

    Reference:
        Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", arXiv:1907.02893, 2019.

    Departures from the authors' Colored MNIST script: the square is the product of the derivatives on two halves of the
    minibatch, as in the paper's own listing; the loss is not divided by $\lambda$, and at the annealing step the
    optimizer starts afresh, both as in DomainBed.

    Departures from DomainBed's code: none in the numbers; the derivative is written down, not left to autograd, and a
    domain with a single example has no penalty instead of NaN.
    """

    card = AlgorithmCard(
        paper="Arjovsky et al., arXiv 2019",
        link="https://arxiv.org/abs/1907.02893",
        tags=("invariance",),
        min_domains=2,
        penalties=("irm_lambda",),
        rehearsal={"irm_penalty_anneal_iters": 12},
        without={"irm_penalty_anneal_iters": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of IRM; defaults and draws are DomainBed's."""

        irm_lambda: float = hparam(1e2, power(10, -1, 5), help="weight of the penalty once it is annealed")
        irm_penalty_anneal_iters: int = hparam(
            500, power(10, 0, 4, integer=True), help="first step with that weight; 1 before", begins="step"
        )

    hparams: Hparams

    def before_step(self) -> None:
        """Drop the optimizer's moments where the penalty's weight jumps."""
        if self.step == self.hparams.irm_penalty_anneal_iters:
            # As in DomainBed: moments gathered under the old weight would give the first steps under the new one a
            # wrong size.
            self.optimizer = self.new_optimizer(self.parameters())

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        logits = split_by_domain(self(torch.cat([b.x for b in batches])), batches)
        penalty = torch.stack([irm_penalty(z, b.y) for z, b in zip(logits, batches, strict=True)]).mean()
        weight = self.hparams.irm_lambda if self.step >= self.hparams.irm_penalty_anneal_iters else 1.0
        return penalized(losses_of(self, logits, batches).mean(), penalty, weight)
