"""Adversarial model perturbation (AMP): climb inside small balls, then descend along the gradient there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import backward_at, clip_to_radius
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule

BALLS = ("tensor", "global")
"""The choices of `ball`."""


class AMP(Rule):
    r"""Minimize the loss at weights that gradient ascent has moved uphill within small balls.

    $$
    \min_\theta \; \max_{\|\Delta_p\| \le \epsilon} L(\theta + \Delta), \qquad
    \Delta \leftarrow \Pi_\epsilon\big(\Delta + \zeta\, \nabla L(\theta + \Delta)\big)
    $$

    $L$ is the loss, $\zeta$ is `inner_lr`, and $\Pi_\epsilon$ shortens to length $\epsilon$ what is longer. From
    $\Delta = 0$ the ascent takes `inner_iter` steps on one set of minibatches, along gradients that are not normalized;
    the descent is along the gradient at the last $\theta + \Delta$.

    `ball` says what $\Delta_p$ is. With `tensor`, as in the authors' code, it is the part of $\Delta$ in each parameter
    tensor, so $\Delta$ may be as long as $\epsilon$ times the square root of their number. With `global` it is all of
    $\Delta$, as the paper writes.

    Reference:
        Zheng, Zhang and Mao, "Regularizing Neural Networks via Adversarial Model Perturbation", CVPR 2021.

    Departures from the authors' code:

    - No clipping of the gradients (theirs are clipped to 50, in the ascent too).
    - No Nesterov momentum.
    - After the first pass live batch norm leaves its statistics alone (theirs move in all passes).
    - Weights are copied back.

    DomainBed: has no AMP.
    """

    card = RuleCard(
        paper="Zheng et al., CVPR 2021",
        link="https://arxiv.org/abs/2010.04925",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        penalties=("inner_lr",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of AMP; defaults are those of the authors' code, for training on CIFAR from scratch."""

        epsilon: float = hparam(0.5, help="radius of the ball; for fine-tuning try 0.01 to 0.1", within="[0, inf)")
        inner_lr: float = hparam(1.0, help="step of the ascent, as a multiple of the gradient", within="[0, inf)")
        inner_iter: int = hparam(
            1, help="steps of the ascent; each costs a forward and a backward pass", within="[1, inf)"
        )
        ball: str = hparam("tensor", help="a ball for each parameter tensor, or one for all", options=BALLS)

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill of the first inner step."""
        return self._clipped(list(torch._foreach_mul(gradients, self.hparams.inner_lr)))

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Climb by `inner_iter` steps, each a forward and a backward pass, and take the gradient at the last point."""
        first = first or self.first_pass(batches)
        parameters, ascent = first.parameters, first.gradients
        by = [torch.zeros_like(parameter) for parameter in parameters]
        for _ in range(self.hparams.inner_iter):
            by = self._clipped(list(torch._foreach_add(by, ascent, alpha=self.hparams.inner_lr)))
            uphill, ascent = backward_at(self, batches, parameters, by)
        # The last `backward_at` left its gradient in `.grad`, and the weights are back where they were.
        return self.logged(first, uphill)

    def _clipped(self, by: list[Tensor]) -> list[Tensor]:
        return clip_to_radius(by, self.hparams.epsilon, each=self.hparams.ball == "tensor")
