"""Fishr: the gradients of the examples should vary alike in all domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import domain_indices, penalized
from dgbench.algorithms._head import moments, per_example
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class Fishr(Algorithm):
    r"""Match the variance of the classifier's gradients across domains.

    $$
    \min \; L + \lambda\, \frac{1}{E P} \sum_e \|v_e - \bar v\|_2^2, \qquad \bar v = \frac{1}{E} \sum_e v_e
    $$

    $L$ is the cross-entropy of all examples. $v_e \in \mathbb{R}^P$ is the variance, over the examples of domain $e$ of
    $E$, of the gradient of each one's cross-entropy with respect to each of the $P$ parameters of the classifier. It is
    a moving average, $v \leftarrow \mathrm{ema} \cdot v + (1 - \mathrm{ema}) \cdot (\text{variance now})$, divided by
    $1 - \mathrm{ema}$ so that the gradient does not depend on `ema`. $\lambda$ is 0 before step `penalty_anneal_iters`,
    where the optimizer starts afresh, and `fishr_lambda` from there on.

    Reference:
        Ramé, Dancette and Cord, "Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization", ICML
        2022.

    Departures from the paper: the mean over parameters, as in its code.

    Departures from DomainBed's code: variances are $\mathbb{E}[g^2] - \mathbb{E}[g]^2$, by matrix products, so no
    example's gradient is ever laid out. Theirs cannot run with any BackPACK that still installs.
    """

    card = AlgorithmCard(
        paper="Ramé et al., ICML 2022",
        link="https://arxiv.org/abs/2109.02934",
        tags=("gradient-matching", "invariance"),
        min_domains=2,
        penalties=("fishr_lambda",),
        rehearsal={"penalty_anneal_iters": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of Fishr; defaults and draws are DomainBed's.

        `fishr_lambda` is its `lambda`, which is a keyword of Python.
        """

        fishr_lambda: float = hparam(1e3, power(10, 1, 4), help="weight of the penalty", stream="lambda")
        penalty_anneal_iters: int = hparam(
            1500, uniform(0, 5000, integer=True), help="first step with that weight; 0 before", begins="step"
        )
        ema: float = hparam(
            0.95, uniform(0.9, 0.99), help="how much of the variances is kept from step to step", within="[0, 1)"
        )

    hparams: Hparams
    variances: Tensor

    def build(self) -> None:
        """Create the moving averages of the domains' variances, at 0."""
        size = sum(p.numel() for p in self.network.classifier.parameters())
        like = next(self.network.classifier.parameters()).detach()
        self.register_buffer("variances", like.new_zeros(self.task.num_domains, size))

    def before_step(self) -> None:
        """Drop the optimizer's moments where the penalty sets in."""
        if self.step == self.hparams.penalty_anneal_iters:
            # As in DomainBed: moments gathered without the penalty would give the first steps with it a wrong size.
            self.optimizer = self.new_optimizer(self.parameters())

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
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
        penalty = self._penalty(torch.stack(variances), domain_indices(self, batches))
        weight = self.hparams.fishr_lambda if self.step >= self.hparams.penalty_anneal_iters else 0.0
        return penalized(nll, penalty, weight)

    def _penalty(self, variances: Tensor, domains: Tensor) -> Tensor:
        """Return the penalty, a scalar; the moving averages that it is computed from are kept at the end of the step.

        Args:
            variances: Variances now of the step's domains (E, P).
            domains: Indices of these domains among all training domains (E,).
        """
        ema = self.hparams.ema
        averaged = ema * self.variances[domains] + (1 - ema) * variances
        # The past is a constant: a graph through it would grow from step to step.
        kept = averaged.detach()
        self.defer(lambda: self.variances.index_copy_(0, domains, kept))
        averaged = averaged / (1 - ema)
        return (averaged - averaged.mean(dim=0)).square().mean()
