"""Imbalanced SAM (ImbSAM): sharpness-aware minimization for the rare classes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.composition import RuleCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.ascent import displaced_parameters, gradient, scale_to_length
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule


class ImbSAM(Rule):
    r"""Minimize the loss uphill of the weights for examples of rare classes, the plain loss for all others.

    $$
    \min_\theta L_\text{head}(\theta) + L_\text{tail}(\theta + \epsilon), \qquad
    \epsilon = \rho\, \frac{g}{\|g\|_2 + 10^{-16}}, \qquad g = \nabla L_\text{tail}(\theta)
    $$

    $L_\text{tail}$ is `tail_weight` / $B$ times the cross-entropy summed over those of the $B$ examples whose class is
    rare, $L_\text{head}$ is $1 / B$ times that summed over the others. Rare are classes with fewer than `tail_below`
    training examples, counted over all training domains. Where no class is rare the method is ERM, in one pass.

    Reference:
        Zhou, Qu, Xu and Shen, "ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition",
        ICCV 2023.

    Departures from the authors' code: the weight 2 of the tail, fixed there, can be changed; in the second pass live
    batch norm leaves its statistics alone (theirs move in both), and weights are copied back.

    DomainBed: has no ImbSAM.
    """

    card = RuleCard(
        paper="Zhou et al., ICCV 2023",
        link="https://arxiv.org/abs/2308.07815",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=3.0,
        passes=1.0,
        forwards_beside=2.0,
        backwards_beside=2.0,
        penalties=("rho",),
        without={"tail_weight": 1.0},
        rehearsal={"tail_below": 10**9},
        experimental="by default the tail is what lies below the mean class size; the paper sets a size per data set",
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of ImbSAM; defaults are the authors', but for `tail_below`: theirs is 20 on CIFAR-100-LT."""

        rho: float = hparam(0.05, help="length of the step uphill", within="[0, inf)")
        tail_below: int = hparam(
            0, help="classes with fewer training examples are rare; 0: fewer than the mean class", within="[0, inf)"
        )
        tail_weight: float = hparam(2.0, help="weight of an example of a rare class; others weigh 1", within="[0, inf)")

    hparams: Hparams
    is_rare: Tensor

    def build(self) -> None:
        """Find the rare classes."""
        super().build()
        counts = [sum(of_class) for of_class in zip(*self.task.class_counts, strict=True)]
        below = self.hparams.tail_below or sum(counts) / len(counts)
        rare = [count < below for count in counts]
        self.has_tail = any(rare)
        self.register_buffer("is_rare", torch.tensor(rare), persistent=False)

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Descend the tail's gradient uphill and the rest's at the weights; plainly where no class is rare."""
        if not self.has_tail:
            return Algorithm.backward(self, batches)
        parts, rest, tail = self._split(batches)
        climbing, ascent = gradient(tail, self.parameters(), retain_graph=True)
        learning, gradients = gradient(rest, self.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        by = scale_to_length(ascent, self.hparams.rho, eps=1e-16)
        with displaced_parameters(self, climbing, by), self.passes.repeat(self):
            _, uphill = self._losses(batches)
            uphill.backward()  # type: ignore[no-untyped-call]
        # The tail's gradient uphill lies in `.grad` already; that of the rest is the one at the weights.
        for parameter, g in zip(learning, gradients, strict=True):
            parameter.grad = g if parameter.grad is None else parameter.grad.add_(g)
        return {name: part.detach() for name, part in parts.items()} | {"sharpness": (uphill - tail).detach()}

    def surrogate(self, loss: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Return the loss at the weights: it doesn't tell what of it is the tail's."""
        return loss

    def _split(self, batches: Sequence[Batch]) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        """Return the parts of the loss at the weights, the rest of it without the tail, and L_tail."""
        if self.stepped is None:  # one pass serves both
            head, tail = self._losses(batches)
            return {"loss": head + tail}, head, tail
        parts = self.objective(batches)
        with self.passes.repeat(self):
            head, tail = self._losses(batches)
        return parts, parts["loss"] - tail / max(self.hparams.tail_weight, 1e-12), tail

    def _losses(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Compute L_head and L_tail, in one forward pass over all examples."""
        y = torch.cat([batch.y for batch in batches])
        losses = F.cross_entropy(self(torch.cat([batch.x for batch in batches])), y, reduction="none") / len(y)
        rare = self.is_rare[y]
        return (losses * ~rare).sum(), self.hparams.tail_weight * (losses * rare).sum()
